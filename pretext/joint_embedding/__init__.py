"""Tasks that compare two views: SimCLR, BYOL, VICReg."""
