"""How GPUs and engines do, over time: numbers that add up, kept at decreasing resolution. Pure.

A *reading* is what one look found. Readings are merged into *buckets* of 5 s, a minute and a quarter of an
hour; a merge loses no reading and counts none twice, in whatever order it is done.
"""
