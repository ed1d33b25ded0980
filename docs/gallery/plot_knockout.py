"""
Attention knockout
==================

What the model still can when its text is kept from attending to a token.
"""

import actstore

found = actstore.open("demo/gated-knockout").measure.knockout(k=10)
figure = found.figure.chart
print(found.command)
