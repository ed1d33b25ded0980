"""
Sparse autoencoders
===================

How well autoencoders of text rebuild image tokens, beside their controls.
"""

import actstore

found = actstore.open("demo/mapped").measure.sae(
    sql="from rows where split = 'test'", saes="digits-mapped", roles=["image", "random-text"]
)
figure = found.figure.chart
print(found.command)
