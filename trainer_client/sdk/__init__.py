"""The SDK: clients of the reward services and the ensemble over them; thin, no torch. Its face is the package above."""
