"""The files of the MultiBench data sets, read exactly as their owners give them."""
