"""
Norms and massive dimensions
============================

How long vectors are, and whether a few dimensions make them so.
"""

import actstore

found = actstore.open("demo/mapped").measure.outliers(roles=["image", "last"])
figure = found.figure.chart
print(found.command)
