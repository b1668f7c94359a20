"""What measures, installed as `retinanet.benchmarks`: each suite sets our part beside others doing the same work."""
