"""
Clusters
========

How well density-peak clusters of end-of-image vectors agree with the digit.
"""

import actstore

found = actstore.open("demo/fusion").measure.cluster(roles=["eoi", "last-image"], label="label", min_size=20)
figure = found.figure.chart
print(found.command)
