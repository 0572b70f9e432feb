//! A driver without a kernel, for tests of what stands above the seam.
