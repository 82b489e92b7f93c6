"""How well sudden share changes are found: worlds of known changes, and detectors on them."""
