"""What comparisons with a committed plan share.

`plan.py` has the sections of a plan, its digest and the check that git holds it, `store.py` keeps measurements in one
Parquet file, `contrasts.py` tests the primary contrasts.
"""
