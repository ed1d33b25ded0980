"""
CKA
===

How alike two layers are, whatever the rotation of their space.
"""

import actstore

found = actstore.open("demo/fusion").measure.cka(roles=["eoi", "last"])
figure = found.figure.chart
print(found.command)
