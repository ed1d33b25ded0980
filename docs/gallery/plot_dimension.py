"""
Intrinsic dimension
===================

In how many dimensions the vectors vary, near each of them.
"""

import actstore

found = actstore.open("demo/fusion").measure.dimension(roles=["eoi", "last-image", "image-mean"])
figure = found.figure.chart
print(found.command)
