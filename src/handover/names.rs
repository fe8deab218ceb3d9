//! The names of proxies and upstreams, as the ledger has them.

/// The proxies by name, each with the addresses of its upstreams: records have their numbers.
pub type Names = Vec<(String, Vec<String>)>;

/// The bytes for the ledger: each text with its length before it, each list with its count.
pub fn encode(names: &Names) -> Vec<u8> {
    let mut out = Vec::new();
    let number = |out: &mut Vec<u8>, n: usize| out.extend((n as u32).to_le_bytes());
    number(&mut out, names.len());
    for (proxy, upstreams) in names {
        number(&mut out, upstreams.len());
        for text in std::iter::once(proxy).chain(upstreams) {
            number(&mut out, text.len());
            out.extend(text.as_bytes());
        }
    }
    out
}

/// The names in these bytes, if that is what they are.
pub fn decode(mut bytes: &[u8]) -> Option<Names> {
    fn number(bytes: &mut &[u8]) -> Option<usize> {
        let (head, rest) = bytes.split_first_chunk()?;
        *bytes = rest;
        Some(u32::from_le_bytes(*head) as usize)
    }
    fn text(bytes: &mut &[u8]) -> Option<String> {
        let length = number(bytes)?;
        let (text, rest) = bytes.split_at_checked(length)?;
        *bytes = rest;
        String::from_utf8(text.to_vec()).ok()
    }
    let mut names = Names::new();
    for _ in 0..number(&mut bytes)? {
        let upstreams = number(&mut bytes)?;
        let proxy = text(&mut bytes)?;
        names.push((proxy, (0..upstreams).map(|_| text(&mut bytes)).collect::<Option<_>>()?));
    }
    Some(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_their_bytes_and_any_bytes_are_names_or_none() {
        let names = vec![
            ("web".to_owned(), vec!["127.0.0.1:80".to_owned(), "unix:/a".to_owned()]),
            (String::new(), vec![]),
        ];
        let bytes = encode(&names);
        assert_eq!(decode(&bytes), Some(names));
        for at in 0..bytes.len() {
            assert_eq!(decode(&bytes[..at]), None);
            for value in [0, 1, 0x7f, 0xff] {
                let mut bytes = bytes.clone();
                bytes[at] = value;
                let _ = decode(&bytes);
            }
        }
    }
}
