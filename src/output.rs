//! Standard output: data only. A reader that has seen enough (a broken pipe) is a success.

use std::io::{self, Write};

use crate::failure::{Failure, Status};

/// Writes `text` and a newline to standard output.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            let hint = "look at what standard output leads to: its disk may be full";
            Err(Failure::new(Status::Failed, &error, Some(hint.into()))
                .because("standard output cannot be written"))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Writes a value as indented JSON.
pub(crate) fn json(value: &impl serde::Serialize) -> Result<(), Failure> {
    // Our own data always encodes, so there is nothing to advise.
    let text =
        serde_json::to_string_pretty(value).map_err(|error| Failure::new(Status::Failed, &error, None))?;
    line(&text)
}
