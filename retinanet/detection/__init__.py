"""Every weight-free rule of the detector: geometry, supervision, decoding."""
