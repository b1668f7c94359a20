"""The input pipeline: sampling, reading, transforming and collating images into batches."""
