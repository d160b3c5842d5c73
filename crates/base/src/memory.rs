//! How the C library's allocator keeps memory.

/// Memory given back to the system only past this much, in bytes.
const KEEP: i32 = 64 << 20;
/// Allocations below this come from memory that was kept, in bytes: the most glibc allows.
const LARGE: i32 = 32 << 20;
/// Pools threads share. Each keeps memory of its own.
const POOLS: i32 = 4;

/// Makes buffers of a megabyte or so, which replication takes and returns some thousand times a second, come from
/// memory this process has already. By default each of them is fetched from the system page by page, which costs as much
/// processor time as encrypting what is put into it. Call it first in `main`; without glibc it does nothing.
pub fn keep() {
    #[cfg(target_env = "gnu")]
    for (name, value) in
        [(libc::M_TRIM_THRESHOLD, KEEP), (libc::M_MMAP_THRESHOLD, LARGE), (libc::M_ARENA_MAX, POOLS)]
    {
        // SAFETY: mallopt takes two numbers and may be called at any time. A setting it refuses costs only speed.
        unsafe { libc::mallopt(name, value) };
    }
}
