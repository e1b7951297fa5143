//! The allocator. An instance lives for microseconds and is then thrown away as a whole, so nothing is ever freed:
//! memory is handed out in one direction, first from a static arena, then from memory that grows.

#![expect(unsafe_code, reason = "an allocator hands out raw memory")]

use core::alloc::{GlobalAlloc, Layout};
use core::arch::wasm32::memory_grow;
use core::cell::{Cell, UnsafeCell};
use core::ptr::null_mut;

/// Enough for a whole step of an ordinary call, so that it never grows its memory. No more than lets stack, data and
/// arena fit into two pages: the host wipes the whole memory after each step.
const ARENA_BYTES: usize = 24 * 1024;
/// A page of WebAssembly memory.
const PAGE_BYTES: usize = 64 * 1024;
/// How much is asked for at least when the arena is used up.
const GROW_PAGES: usize = 4;

struct Arena {
    memory: UnsafeCell<[u8; ARENA_BYTES]>,
    /// The next free address; 0 before the first use.
    next: Cell<usize>,
    end: Cell<usize>,
}

// SAFETY: the component has one thread.
unsafe impl Sync for Arena {}

#[global_allocator]
static ARENA: Arena =
    Arena { memory: UnsafeCell::new([0; ARENA_BYTES]), next: Cell::new(0), end: Cell::new(0) };

// SAFETY: every address is handed out once, aligned, inside the static arena or inside memory that was grown for it.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if self.end.get() == 0 {
            self.next.set(self.memory.get() as usize);
            self.end.set(self.next.get() + ARENA_BYTES);
        }
        let start = self.next.get().next_multiple_of(layout.align());
        if layout.size() <= self.end.get().saturating_sub(start) {
            self.next.set(start + layout.size());
            return start as *mut u8;
        }
        let pages = layout.size().div_ceil(PAGE_BYTES).max(GROW_PAGES);
        let previous = memory_grow::<0>(pages);
        if previous == usize::MAX {
            return null_mut();
        }
        // A fresh page is aligned to anything that Rust asks for.
        let start = previous * PAGE_BYTES;
        self.next.set(start + layout.size());
        self.end.set(start + pages * PAGE_BYTES);
        start as *mut u8
    }

    unsafe fn dealloc(&self, _block: *mut u8, _layout: Layout) {}

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let start = block as usize;
        // The newest block grows where it is: what a string being built asks for again and again.
        let is_newest = start + layout.size() == self.next.get();
        if is_newest && new_size <= self.end.get() - start {
            self.next.set(start + new_size);
            return block;
        }
        if new_size <= layout.size() {
            return block;
        }
        // SAFETY: the caller vouches for `block`; the sizes are those of the two layouts.
        unsafe {
            let grown = self.alloc(Layout::from_size_align_unchecked(new_size, layout.align()));
            if !grown.is_null() {
                core::ptr::copy_nonoverlapping(block, grown, layout.size());
            }
            grown
        }
    }
}
