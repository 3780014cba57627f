"""What an answer says: text metrics, and facts (numbers, units, dates, colours, polarity) read from English text."""
