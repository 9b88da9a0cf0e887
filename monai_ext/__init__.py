"""Plan-driven training, evaluation and inference of medical image models on MONAI and Ignite.

Importing the package loads neither torch nor monai; parts are imported where they are used.
"""

__version__ = "0.1.0"
