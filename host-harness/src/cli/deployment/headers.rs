//! Additional headers as they are written: `NAME=VALUE`, and several of them in a variable as one line of CSV, as the
//! Coder command line has them. What is wrong with one is told without showing it.

use anyhow::bail;

/// The headers of a variable.
pub fn split(text: &str) -> anyhow::Result<Vec<String>> {
    let (mut fields, mut field) = (Vec::new(), String::new());
    let mut letters = text.trim_end_matches(['\r', '\n']).chars().peekable();
    loop {
        // Within a field it is a letter like any other.
        if field.is_empty() && letters.next_if_eq(&'"').is_some() {
            loop {
                match letters.next() {
                    Some('"') if letters.next_if_eq(&'"').is_some() => field.push('"'),
                    Some('"') => break,
                    Some(letter) => field.push(letter),
                    None => bail!("CODER_HEADER has a quotation mark (\") that is not closed"),
                }
            }
            if letters.peek().is_some_and(|next| *next != ',') {
                bail!("CODER_HEADER has something between a quoted header and the comma after it");
            }
        }
        match letters.next() {
            Some(',') => fields.push(std::mem::take(&mut field)),
            Some(letter) => field.push(letter),
            None => {
                fields.push(field);
                return Ok(fields);
            }
        }
    }
}

/// The same headers as a variable has them.
pub fn joined(headers: &[String]) -> String {
    let quoted = headers.iter().map(|header| format!("\"{}\"", header.replace('"', "\"\"")));
    quoted.collect::<Vec<_>>().join(",")
}

/// Names and values.
pub fn pairs(headers: &[String]) -> anyhow::Result<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    for (index, header) in headers.iter().enumerate() {
        match header.split_once('=') {
            Some((name, value)) if !name.trim().is_empty() => pairs.push((name.to_owned(), value.to_owned())),
            _ => bail!(
                "the additional header number {} of CODER_HEADER and --coder-header is not written NAME=VALUE",
                index + 1
            ),
        }
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_has_headers_as_one_line_of_csv_and_passes_on_what_was_typed() {
        for (text, fields) in [
            ("A=1", &["A=1"][..]),
            ("A=1,B=2\n", &["A=1", "B=2"]),
            ("\"A=1,2\",B=x\"y", &["A=1,2", "B=x\"y"]),
            ("\"A=say \"\"hi\"\"\",B==", &["A=say \"hi\"", "B=="]),
        ] {
            let split_up = split(text).unwrap();
            assert_eq!(split_up, fields);
            assert_eq!(split(&joined(&split_up)).unwrap(), fields);
        }
        assert_eq!(
            pairs(&split("A=1,B==").unwrap()).unwrap(),
            [("A".into(), "1".into()), ("B".into(), "=".into())]
        );
    }

    #[test]
    fn what_is_no_header_is_told_without_showing_it() {
        for text in ["\"secret=1", "\"a=secret\"b", "A=1,secret", "=secret"] {
            let error = split(text).and_then(|headers| pairs(&headers)).unwrap_err().to_string();
            assert!(error.contains("CODER_HEADER") && !error.contains("secret"), "{error}");
        }
    }
}
