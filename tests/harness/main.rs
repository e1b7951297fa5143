//! The root package's tests: the contract's generated bindings, and the built component.

mod bindings;
mod surface;
