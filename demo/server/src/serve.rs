//! Newline-delimited JSON-RPC on a pair of streams, until the input ends.

use std::io::{self, BufRead, Read, Write};

use serde_json::Value;

use crate::mcp;

/// The longest line read. The largest thing that anyone sends here is a text for `echo` or `word_count`; 1 MiB is
/// a long book chapter a hundred times over, and bounds what this process holds.
const MAX_LINE_BYTES: u64 = 1024 * 1024;

enum Line {
    Text(Vec<u8>),
    TooLong,
    End,
}

/// Answers every request on `input` in order.
pub(crate) fn run(input: &mut impl BufRead, output: &mut impl Write) -> io::Result<()> {
    loop {
        let answer = match read_line(input)? {
            Line::End => return Ok(()),
            Line::TooLong => {
                Some(mcp::error(&Value::Null, mcp::PARSE_ERROR, "the line is longer than 1 MiB"))
            }
            Line::Text(text) if text.trim_ascii().is_empty() => None,
            Line::Text(text) => match serde_json::from_slice::<Value>(&text) {
                Ok(message) => mcp::answer(&message),
                Err(error) => Some(mcp::error(&Value::Null, mcp::PARSE_ERROR, &error.to_string())),
            },
        };
        if let Some(answer) = answer {
            writeln!(output, "{answer}")?;
            output.flush()?;
        }
    }
}

fn read_line(input: &mut impl BufRead) -> io::Result<Line> {
    let mut line = Vec::new();
    if input.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line)? == 0 {
        return Ok(Line::End);
    }
    let full = u64::try_from(line.len()).is_ok_and(|read| read == MAX_LINE_BYTES);
    if full && !line.ends_with(b"\n") {
        input.skip_until(b'\n')?;
        return Ok(Line::TooLong);
    }
    Ok(Line::Text(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(input: &[u8]) -> Vec<Value> {
        let mut output = Vec::new();
        run(&mut &*input, &mut output).expect("memory does not fail");
        let text = String::from_utf8(output).expect("JSON is UTF-8");
        text.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
    }

    #[test]
    fn garbage_and_overlong_lines_get_an_error_and_the_next_request_an_answer() {
        let mut input = b"not json\n".to_vec();
        input.extend(vec![b'x'; 3 * 1024 * 1024]);
        input.extend(b"\n\n{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"ping\"}\n");
        let answers = answers(&input);
        assert_eq!(answers.len(), 3);
        assert_eq!(answers[0]["error"]["code"], mcp::PARSE_ERROR);
        assert_eq!(answers[1]["error"]["code"], mcp::PARSE_ERROR);
        assert_eq!(answers[2], serde_json::json!({ "jsonrpc": "2.0", "id": 7, "result": {} }));
    }

    #[test]
    fn a_last_line_without_a_newline_is_answered() {
        assert_eq!(answers(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}").len(), 1);
    }
}
