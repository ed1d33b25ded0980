"""
Activation patching
===================

Of which digit the model speaks when another's end-of-image vector is put in.
"""

import actstore

found = actstore.open("demo/gated-patch").measure.patch()
figure = found.figure.chart
print(found.command)
