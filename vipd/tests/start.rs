//! What `vipd` says when it cannot do what it should.

use std::path::Path;
use std::process::Command;
use vipd::control::instance::Instance;
use vipd::daemon::Error;
use vipd_config::chain;

#[test]
fn a_file_that_cannot_be_read_is_told_with_the_cause() {
    let output = Command::new(env!("CARGO_BIN_EXE_vipd")).args(["import", "/none"]).output();
    let output = output.expect("vipd runs");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).expect("text");
    assert_eq!(said, "cannot read /none: No such file or directory (os error 2)\n");
}

#[test]
fn a_runtime_directory_that_cannot_be_is_told_with_the_cause() {
    let refused = Instance::claim(Path::new("/proc/x/y")).expect_err("no directory can be there");
    let said = chain(&Error::from(refused));
    assert!(said.starts_with("cannot create /proc/x/y: ") && said.contains("os error"), "{said}");
}
