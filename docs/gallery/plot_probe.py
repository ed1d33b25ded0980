"""
Linear probe
============

How well the digit can be read from a vector by logistic regression.
"""

import actstore

found = actstore.open("demo/fusion").measure.probe(roles=["eoi", "last-image"])
figure = found.figure.chart
print(found.command)
