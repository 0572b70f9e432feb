//! What the allocator keeps although nobody uses it.

/// Gives free memory back to the kernel, also from the middle of the heap.
///
/// glibc keeps what was freed below anything still in use; a program that is idle for hours should not.
pub fn release_free_memory() {
    // SAFETY: malloc_trim(3) takes an integer and locks the allocator itself.
    unsafe { libc::malloc_trim(0) };
}
