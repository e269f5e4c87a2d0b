//! The numbers of a policy: sizes, processors, durations, each within its range.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::error::{Findings, quoted};
use crate::node::At;
use crate::policy::{Lifecycle, Limits, defaults};
use crate::resolve::bad_value;
use crate::size::{AmountError, ByteSize, Cpus, duration, duration_text};
use crate::written;

pub(crate) fn limits(limits: written::Limits, at: &At<'_>, findings: &mut Findings) -> Option<Limits> {
    let written::Limits {
        memory,
        swap,
        cpus,
        pids,
        io,
        open_files,
        file_size,
        tmp,
        tmp_files,
        output,
        call_time,
    } = limits;
    let swap = size(swap, &at.key("swap"), defaults::SWAP, &defaults::SWAP_RANGE, findings);
    let io = io.map_or(Some(None), |text| {
        size(Some(text), &at.key("io"), defaults::MEMORY, &defaults::IO_RANGE, findings).map(Some)
    });
    let output = size(output, &at.key("output"), defaults::OUTPUT, &defaults::OUTPUT_RANGE, findings);
    let call_time = call_time.map_or(Some(defaults::CALL_TIME), |text| {
        timeout(&text, &at.key("call_time"), &defaults::CALL_TIME_RANGE, findings)
    });
    let memory = size(memory, &at.key("memory"), defaults::MEMORY, &defaults::MEMORY_RANGE, findings);
    let cpus = cpus.map_or(Some(defaults::CPUS), |digits| processors(&digits.0, &at.key("cpus"), findings));
    let (default, range) = (defaults::FILE_SIZE, &defaults::FILE_SIZE_RANGE);
    let file_size = size(file_size, &at.key("file_size"), default, range, findings);
    let tmp = size(tmp, &at.key("tmp"), defaults::TMP, &defaults::TMP_RANGE, findings);
    Some(Limits {
        memory: memory?,
        swap: swap?,
        cpus: cpus?,
        pids: pids.unwrap_or(defaults::PIDS),
        io: io?,
        open_files: open_files.unwrap_or(defaults::OPEN_FILES),
        file_size: file_size?,
        tmp: tmp?,
        tmp_files: tmp_files.unwrap_or(defaults::tmp_files(tmp?)),
        output: output?,
        call_time: call_time?,
    })
}

pub(crate) fn lifecycle(
    lifecycle: written::Lifecycle,
    at: &At<'_>,
    findings: &mut Findings,
) -> Option<Lifecycle> {
    let written::Lifecycle { start, start_timeout, stop_timeout, warm, instances: None, idle_timeout: None } =
        lifecycle;
    let start_timeout = start_timeout.map_or(Some(defaults::START_TIMEOUT), |text| {
        timeout(&text, &at.key("start_timeout"), &defaults::START_TIMEOUT_RANGE, findings)
    });
    let stop_timeout = stop_timeout.map_or(Some(defaults::STOP_TIMEOUT), |text| {
        timeout(&text, &at.key("stop_timeout"), &defaults::STOP_TIMEOUT_RANGE, findings)
    });
    Some(Lifecycle {
        start: start.unwrap_or(defaults::START),
        start_timeout: start_timeout?,
        stop_timeout: stop_timeout?,
        warm: warm.unwrap_or(defaults::WARM),
    })
}

fn size(
    text: Option<String>,
    at: &At<'_>,
    default: ByteSize,
    range: &RangeInclusive<ByteSize>,
    findings: &mut Findings,
) -> Option<ByteSize> {
    let Some(text) = text else { return Some(default) };
    let example = "write a whole number and a unit, such as `256MiB`";
    amount(text.parse(), &text, range, ByteSize::to_string, (at, example, findings))
}

fn processors(text: &str, at: &At<'_>, findings: &mut Findings) -> Option<Cpus> {
    let example = "write a number with at most three decimals, such as `0.5`";
    amount(text.parse(), text, &defaults::CPUS_RANGE, Cpus::to_string, (at, example, findings))
}

fn timeout(
    text: &str,
    at: &At<'_>,
    range: &RangeInclusive<Duration>,
    findings: &mut Findings,
) -> Option<Duration> {
    let example = "write a whole number and a unit, such as `30s`";
    amount(duration(text), text, range, |&duration| duration_text(duration), (at, example, findings))
}

fn amount<T: PartialOrd>(
    read: Result<T, AmountError>,
    written: &str,
    range: &RangeInclusive<T>,
    show: impl Fn(&T) -> String,
    (at, example, findings): (&At<'_>, &str, &mut Findings),
) -> Option<T> {
    let mut refuse = |problem: &dyn Display, hint: String| {
        bad_value(at, &format!("is {}: {problem}", quoted(written)), Some(hint), findings);
    };
    let value = match read {
        Ok(value) => value,
        Err(error) => {
            refuse(&error, example.to_owned());
            return None;
        }
    };
    if !range.contains(&value) {
        let hint = format!("give a value from {} to {}", show(range.start()), show(range.end()));
        refuse(&"it is out of range", hint);
        return None;
    }
    Some(value)
}
