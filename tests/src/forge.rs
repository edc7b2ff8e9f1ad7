//! Adverts as an attacker or a broken router would send them.
