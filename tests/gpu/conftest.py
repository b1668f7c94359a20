import os

# cuBLAS reads this when it starts; deterministic runs need it.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
