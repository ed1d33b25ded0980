"""
Label overlap
=============

The share of each vector's ten nearest neighbours that have its label, by token position and layer.
"""

import actstore

found = actstore.open("demo/fusion").measure.overlap(
    sql="from rows where split = 'test'", roles=["eoi", "last-image", "image-mean"], k=10
)
figure = found.figure.chart
print(found.command)
