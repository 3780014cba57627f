"""Whole data sets scored: a folder, a table or shards of pictures in, one table of scores out.

    source (rows, in order) ─▶ run (matches rows with the journal, scores the others) ─▶ OUT, one row for each

`sync-r1 score REWARD,… INPUT -o OUT` is the command, `score_table` the same for tables in memory.
"""

from sync_r1.trainer_client.tables.arrow_api import score_table

__all__ = ["score_table"]
