"""Dictionary of features of a pretrained network (Napoletano et al., Sensors 2018)."""
