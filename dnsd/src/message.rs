//! A request as it came: just as much of it as an answer needs.
//!
//! hickory parses a message into owned names and records; most queries need
//! none of that. What is not a plain query is parsed by hickory later.

use crate::name::MAX_NAME;

/// Bytes of a header (RFC 1035, section 4.1.1).
pub const HEADER: usize = 12;
/// The largest answer over UDP that passes everywhere unfragmented (DNS flag day 2020).
pub const UDP_MAX: usize = 1232;
/// The largest answer over UDP to a client that does not say (RFC 1035, section 4.2.1).
pub const UDP_PLAIN: usize = 512;

/// The option of update leases (RFC 9664, section 4).
pub const OPTION_LEASE: u16 = 2;
/// The option of cookies (RFC 7873, section 4).
pub const OPTION_COOKIE: u16 = 10;

/// What is asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Opcode {
    /// A question.
    Query,
    /// A dynamic update.
    Update,
    /// Anything else.
    Other,
}

/// EDNS(0) of a request (RFC 6891).
#[derive(Clone, Copy, Debug, Default)]
pub struct Edns<'m> {
    /// The largest answer that the client takes.
    pub size: u16,
    /// The version of EDNS.
    pub version: u8,
    /// The DO bit, which is copied (RFC 3225).
    pub dnssec_ok: bool,
    /// The COOKIE option.
    pub cookie: Option<&'m [u8]>,
    /// The Update Lease option.
    pub lease: Option<&'m [u8]>,
}

/// A name that was read into lower case.
#[derive(Clone, Copy)]
pub struct LowerName {
    bytes: [u8; MAX_NAME + 1],
    length: usize,
}

impl std::ops::Deref for LowerName {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

/// A request.
#[derive(Clone)]
pub struct Request<'m> {
    /// The whole message.
    pub raw: &'m [u8],
    /// What is asked for.
    pub opcode: Opcode,
    /// The question's name, or the zone's in an update.
    pub name: LowerName,
    /// The byte after the question.
    pub question_end: usize,
    /// QTYPE.
    pub qtype: u16,
    /// QCLASS.
    pub qclass: u16,
    /// EDNS, if the client knows it.
    pub edns: Option<Edns<'m>>,
    /// Where the TSIG record begins, if there is one.
    pub tsig_at: Option<usize>,
    /// Where the SOA record's data in the authority section begins (RFC 1995, section 3).
    pub soa_at: Option<usize>,
}

/// Why a message is not a request that can be answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Malformed {
    /// It is too short for a header, or is an answer itself: silence.
    NoRequest,
    /// FORMERR.
    FormErr,
}

impl<'m> Request<'m> {
    /// Reads a message.
    ///
    /// # Errors
    ///
    /// When it is none, or malformed.
    pub fn read(raw: &'m [u8]) -> Result<Self, Malformed> {
        let flags = *raw.get(2).filter(|_| raw.len() >= HEADER).ok_or(Malformed::NoRequest)?;
        if flags & 0x80 != 0 {
            return Err(Malformed::NoRequest);
        }
        let opcode = match flags >> 3 & 0x0f {
            0 => Opcode::Query,
            5 => Opcode::Update,
            _ => Opcode::Other,
        };
        let mut request = Self {
            raw,
            opcode,
            name: LowerName { bytes: [0; MAX_NAME + 1], length: 0 },
            question_end: HEADER,
            qtype: 0,
            qclass: 0,
            edns: None,
            tsig_at: None,
            soa_at: None,
        };
        if opcode != Opcode::Other {
            request.sections().ok_or(Malformed::FormErr)?;
        }
        Ok(request)
    }

    fn sections(&mut self) -> Option<()> {
        let raw = self.raw;
        let [questions, answers, authorities, additionals] = [4, 6, 8, 10].map(|at| u16_at(raw, at));
        if questions? != 1 {
            return None;
        }
        let (name, end) = read_name(raw, HEADER)?;
        (self.name, self.qtype, self.qclass) = (name, u16_at(raw, end)?, u16_at(raw, end + 2)?);
        self.question_end = end + 4;
        let mut at = self.question_end;
        let (answers, authorities) = (usize::from(answers?), usize::from(authorities?));
        let all = answers + authorities + usize::from(additionals?);
        for index in 0..all {
            if self.tsig_at.is_some() {
                return None; // it must be the last (RFC 8945, section 5.1)
            }
            let start = at;
            let fixed = skip_name(raw, at)?;
            let (rtype, length) = (u16_at(raw, fixed)?, usize::from(u16_at(raw, fixed + 8)?));
            let data = raw.get(fixed + 10..fixed + 10 + length)?;
            at = fixed + 10 + length;
            let additional = index >= answers + authorities;
            match rtype {
                41 if additional && self.edns.is_none() && fixed == start + 1 => {
                    self.edns = Some(read_edns(raw, fixed, data)?);
                }
                250 if additional => self.tsig_at = Some(start),
                41 | 250 => return None,
                6 if index == answers && authorities == 1 => self.soa_at = Some(fixed + 10),
                _ => {}
            }
        }
        (at == raw.len()).then_some(())
    }

    /// The message's ID.
    #[must_use]
    pub fn id(&self) -> u16 {
        u16_at(self.raw, 0).unwrap_or(0)
    }

    /// The largest answer over UDP.
    #[must_use]
    pub fn udp_size(&self) -> usize {
        self.edns.map_or(UDP_PLAIN, |edns| usize::from(edns.size).clamp(UDP_PLAIN, UDP_MAX))
    }

    /// The question as it came, letter by letter.
    #[must_use]
    pub fn question(&self) -> &'m [u8] {
        self.raw.get(HEADER..self.question_end).unwrap_or_default()
    }

    /// The serial in an IXFR query: the number after the two names of the SOA record.
    #[must_use]
    pub fn ixfr_serial(&self) -> Option<u32> {
        let primary = skip_name(self.raw, self.soa_at?)?;
        let serial = skip_name(self.raw, primary)?;
        self.raw.get(serial..serial + 4)?.try_into().ok().map(u32::from_be_bytes)
    }
}

fn u16_at(raw: &[u8], at: usize) -> Option<u16> {
    raw.get(at..at + 2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
}

/// A name without pointers: nothing stands before it that it could point to.
fn read_name(raw: &[u8], start: usize) -> Option<(LowerName, usize)> {
    let mut at = start;
    loop {
        let length = *raw.get(at)?;
        at += 1 + usize::from(length);
        match length {
            0 => break,
            1..=63 => {}
            64.. => return None,
        }
    }
    let mut name = LowerName { bytes: [0; MAX_NAME + 1], length: at - start };
    let bytes = name.bytes.get_mut(..at - start).filter(|_| at - start <= MAX_NAME)?;
    bytes.copy_from_slice(raw.get(start..at)?);
    // Length octets are below the letters.
    bytes.make_ascii_lowercase();
    Some((name, at))
}

/// The byte after a name, which may end with a pointer.
fn skip_name(raw: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *raw.get(at)? {
            0 => return Some(at + 1),
            length @ 1..=63 => at += 1 + usize::from(length),
            64..=191 => return None,
            192.. => return raw.get(at + 1).map(|_| at + 2),
        }
    }
}

fn read_edns<'m>(raw: &'m [u8], fixed: usize, data: &'m [u8]) -> Option<Edns<'m>> {
    let mut edns = Edns {
        size: u16_at(raw, fixed + 2)?,
        version: *raw.get(fixed + 5)?,
        dnssec_ok: raw.get(fixed + 6)? & 0x80 != 0,
        ..Edns::default()
    };
    let mut rest = data;
    while !rest.is_empty() {
        let (code, length) = (u16_at(rest, 0)?, usize::from(u16_at(rest, 2)?));
        let value = rest.get(4..4 + length)?;
        match code {
            OPTION_COOKIE if edns.cookie.is_none() => edns.cookie = Some(value),
            OPTION_LEASE if edns.lease.is_none() => edns.lease = Some(value),
            _ => {}
        }
        rest = &rest[4 + length..];
    }
    // RFC 7873, section 5.2.2: other lengths are malformed.
    let proper = edns.cookie.is_none_or(|cookie| matches!(cookie.len(), 8 | 16..=40));
    proper.then_some(edns)
}

/// The head of an answer: ID, flags, counts of one question and nothing else,
/// and the question.
pub fn begin(request: &Request<'_>, authoritative: bool, rcode: u8, out: &mut Vec<u8>) {
    out.clear();
    let flags = request.raw.get(2).copied().unwrap_or(0);
    // QR, opcode and RD as asked; AA.
    let high = 0x80 | (flags & 0x79) | u8::from(authoritative) << 2;
    out.extend(request.id().to_be_bytes());
    out.extend([high, rcode & 0x0f, 0, u8::from(request.question_end > HEADER)]);
    out.extend([0; 6]);
    out.extend(request.question());
}

/// A section of a message, as the place of its count in the header.
#[derive(Clone, Copy, Debug)]
pub enum Section {
    /// ANCOUNT.
    Answer = 6,
    /// NSCOUNT.
    Authority = 8,
    /// ARCOUNT.
    Additional = 10,
}

/// Adds to the count of a section.
pub fn count(message: &mut [u8], section: Section, records: usize) {
    let at = section as usize;
    if let (Some(now), Ok(more)) = (u16_at(message, at), u16::try_from(records)) {
        message[at..at + 2].copy_from_slice(&now.saturating_add(more).to_be_bytes());
    }
}

/// An option of EDNS to send.
#[derive(Clone, Copy, Debug)]
pub struct EdnsOption<'o> {
    /// Its code.
    pub code: u16,
    /// Its value.
    pub value: &'o [u8],
}

/// Appends the OPT record, with the high bits of the response code.
pub fn append_edns(out: &mut Vec<u8>, rcode: u16, dnssec_ok: bool, options: &[EdnsOption<'_>]) {
    let length: usize = options.iter().map(|option| 4 + option.value.len()).sum();
    let high = (rcode >> 4).to_be_bytes()[1];
    out.extend([0, 0, 41]);
    out.extend(u16::try_from(UDP_MAX).unwrap_or(u16::MAX).to_be_bytes());
    out.extend([high, 0, u8::from(dnssec_ok) << 7, 0]);
    out.extend(u16::try_from(length).unwrap_or(0).to_be_bytes());
    for option in options {
        out.extend(option.code.to_be_bytes());
        out.extend(u16::try_from(option.value.len()).unwrap_or(0).to_be_bytes());
        out.extend(option.value);
    }
    count(out, Section::Additional, 1);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const QUERY: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\x01\x02Db\x04corp\x07example\0\0\x01\0\x01\0\0\x29\x10\0\0\0\x80\0\0\x0c\0\x0a\0\x08cookie!!";

    #[test]
    fn a_query_with_a_cookie() {
        let request = Request::read(QUERY).unwrap();
        assert_eq!((request.id(), request.opcode, request.qtype), (0x1234, Opcode::Query, 1));
        assert_eq!(&*request.name, b"\x02db\x04corp\x07example\0");
        assert!(request.question().starts_with(b"\x02Db"), "as it was written");
        let edns = request.edns.unwrap();
        assert_eq!((edns.size, edns.dnssec_ok, edns.cookie), (4096, true, Some(b"cookie!!".as_slice())));
        assert_eq!(request.udp_size(), 1232);
    }

    #[test]
    fn what_is_malformed() {
        for cut in HEADER..QUERY.len() {
            assert!(Request::read(&QUERY[..cut]).is_err(), "cut at {cut}");
        }
        assert_eq!(Request::read(b"short").err(), Some(Malformed::NoRequest));
        let mut answer = QUERY.to_vec();
        answer[2] |= 0x80;
        assert_eq!(Request::read(&answer).err(), Some(Malformed::NoRequest), "answers are not answered");
        assert_eq!(Request::read(&[QUERY, b"x"].concat()).err(), Some(Malformed::FormErr), "trailing bytes");
        let mut pointer = QUERY.to_vec();
        pointer[12] = 0xc0;
        assert_eq!(Request::read(&pointer).err(), Some(Malformed::FormErr));
        let mut cookie = QUERY.to_vec();
        let end = cookie.len();
        cookie[end - 9] = 7;
        assert_eq!(Request::read(&cookie).err(), Some(Malformed::FormErr));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = Request::read(&bytes);
        }

        #[test]
        fn no_change_of_a_query_makes_it_panic(at in 0..QUERY.len(), byte: u8) {
            let mut changed = QUERY.to_vec();
            changed[at] = byte;
            let _ = Request::read(&changed);
        }
    }
}
