//! Gateway: the HTTP surface.
