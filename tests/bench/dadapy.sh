#!/bin/sh
# An environment for DADApy, which needs numpy below 2 and is compiled: dadapy.sh PYTHON FOLDER
set -e
"$1" -m venv "$2"
"$2/bin/pip" install --quiet "numpy<2" scipy scikit-learn "cython<3.1" setuptools wheel matplotlib seaborn tqdm \
    networkx psutil "jax==0.4.30" "jaxlib==0.4.30" "flax==0.8.5" "optax<0.2.4"
"$2/bin/pip" install --quiet --no-build-isolation --no-deps dadapy==0.3.4
