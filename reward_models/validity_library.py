"""Keeps the published command `python -m sync_r1.reward_models.validity_library`; code: `validity/library.py`."""

from sync_r1.reward_models.validity.library import main

if __name__ == "__main__":
    main()
