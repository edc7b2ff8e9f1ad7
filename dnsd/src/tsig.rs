//! Signed messages (RFC 8945). The hashes and the record are hickory's.

use crate::answer::rcode;
use crate::message::{Request, Section, count};
use crate::name::{self, Wire};
use data_encoding::BASE64;
use hickory_proto::rr::rdata::tsig::{TSIG, TsigAlgorithm, TsigError, make_tsig_record};
use hickory_proto::rr::{Name, RData, Record, TSigner};
use hickory_proto::serialize::binary::{BinDecodable as _, BinDecoder, BinEncodable as _, BinEncoder};
use std::collections::HashMap;
use std::fmt;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;
use vipd_config::dnsd::{self, Grant, Names};
use vipd_core::settings::KeyAlgorithm;

/// Seconds that clocks may differ (RFC 8945, section 10).
pub const FUDGE: u16 = 300;
/// A signature shorter than this is none (RFC 8945, section 5.2.2.1).
const LEAST_MAC: usize = 10;
/// Bits of a file's mode with which it is no secret.
const OTHERS: u32 = 0o007;
const GROUP_WRITES: u32 = 0o020;
/// A secret shorter than this can be guessed.
const MIN_SECRET: usize = 16;

/// Why a secret cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error("{}: error: cannot read the secret of key {key}: {source}", path.display())]
    Read {
        /// The key.
        key: String,
        /// The file.
        path: PathBuf,
        /// The error.
        #[source]
        source: std::io::Error,
    },
    /// It holds something else.
    #[error("{}: error: the secret of key {key} {what}; `dnsd keygen {key}` prints a good one", path.display())]
    Bad {
        /// The key.
        key: String,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// A key and what it may do.
pub struct Key {
    /// Its name.
    pub name: String,
    signer: TSigner,
    /// Bytes of a whole signature.
    output: usize,
    grants: Vec<(Wire, Grant)>,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("name", &self.name).field("grants", &self.grants).finish_non_exhaustive()
    }
}

impl Key {
    /// Reads a key's secret.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or holds no secret.
    pub fn load(settings: &dnsd::Key) -> Result<Self, KeyError> {
        let (key, path) = (settings.name.clone(), settings.secret_file.clone());
        let bad = |what| KeyError::Bad { key: key.clone(), path: path.clone(), what };
        let text = std::fs::read_to_string(&path).map_err(|source| KeyError::Read {
            key: key.clone(),
            path: path.clone(),
            source,
        })?;
        let secret = BASE64.decode(text.trim().as_bytes()).map_err(|_| bad("is not base64"))?;
        if secret.len() < MIN_SECRET {
            return Err(bad("is shorter than 16 bytes"));
        }
        let signer = TSigner::new(
            secret,
            algorithm(settings.algorithm),
            name::to_name(&name::from_text(&settings.name)),
            FUDGE,
        );
        let grants = settings.grants.iter().map(|grant| {
            let (Names::One(name) | Names::Below(name)) = &grant.names;
            (name::from_text(name), grant.clone())
        });
        Ok(Self {
            name: settings.name.clone(),
            output: settings.algorithm.output(),
            signer: signer.map_err(|_| bad("is for a hash that this program does not have"))?,
            grants: grants.collect(),
        })
    }

    /// What is to be said of a secret's file that others may use, if they may.
    #[must_use]
    pub fn exposed(settings: &dnsd::Key) -> Option<String> {
        let (key, path) = (&settings.name, settings.secret_file.display());
        let mode = std::fs::metadata(&settings.secret_file).ok()?.permissions().mode() & 0o777;
        (mode & (OTHERS | GROUP_WRITES) != 0).then(|| {
            format!(
                "{path}: warning: the secret of key {key} may be used by others (its mode is {mode:03o}): whoever \
                 has it changes records; chmod 640 {path}"
            )
        })
    }

    /// Whether a signature is the key's, or the beginning of it.
    fn has_signed(&self, bytes: &[u8], mac: &[u8]) -> bool {
        if mac.len() == self.output {
            return self.signer.verify(bytes, mac).is_ok();
        }
        let Ok(whole) = self.signer.sign(bytes) else { return false };
        // However many bytes are right, it takes the same time.
        let differs = whole.iter().zip(mac).fold(0, |sum, (a, b)| sum | (a ^ b));
        std::hint::black_box(differs) == 0
    }

    /// Whether the key may change anything at all; others only sign transfers.
    #[must_use]
    pub fn may_update(&self) -> bool {
        !self.grants.is_empty()
    }

    /// Whether the key may change a type at a name; `None`: every type.
    #[must_use]
    pub fn may(&self, name: &[u8], rtype: Option<u16>) -> bool {
        self.grants.iter().any(|(granted, grant)| {
            let named = match grant.names {
                Names::One(_) => {
                    let about = name.get(1) == Some(&b'_') && name::parent(name) == Some(granted);
                    name == &**granted || about
                }
                Names::Below(_) => name != &**granted && name::within(name, granted),
            };
            named && (grant.types.is_empty() || rtype.is_some_and(|rtype| grant.types.contains(&rtype)))
        })
    }
}

fn algorithm(algorithm: KeyAlgorithm) -> TsigAlgorithm {
    match algorithm {
        KeyAlgorithm::HmacSha256 => TsigAlgorithm::HmacSha256,
        KeyAlgorithm::HmacSha384 => TsigAlgorithm::HmacSha384,
        KeyAlgorithm::HmacSha512 => TsigAlgorithm::HmacSha512,
    }
}

/// Every key, by its name.
#[derive(Debug, Default)]
pub struct Keys(HashMap<Wire, Arc<Key>>);

impl Keys {
    /// Reads the secrets of all keys.
    ///
    /// # Errors
    ///
    /// The first that cannot be read.
    pub fn load(settings: &[dnsd::Key]) -> Result<Self, KeyError> {
        let one = |key: &dnsd::Key| Ok((name::from_text(&key.name), Arc::new(Key::load(key)?)));
        settings.iter().map(one).collect::<Result<_, _>>().map(Self)
    }

    /// Checks a signed request at a time in seconds since 1970.
    ///
    /// # Errors
    ///
    /// Why the signature does not count, with what the answer must say.
    pub fn verify(&self, request: &Request<'_>, now: u64) -> Result<Signed, Box<Refusal>> {
        let at = request.tsig_at.ok_or(Refusal::Malformed)?;
        let (owner, tsig) = read(request.raw, at).ok_or(Refusal::Malformed)?;
        let unknown = || Box::new(Refusal::Key { owner: owner.clone(), tsig: tsig.clone() });
        let key = self.0.get(&name::of(&owner)).ok_or_else(unknown)?;
        if tsig.algorithm != *key.signer.algorithm() {
            return Err(unknown());
        }
        let signed = Signed { key: Arc::clone(key), mac: tsig.mac.clone(), time: tsig.time };
        let bytes = signed_bytes(request.raw, at, &owner, &tsig).ok_or(Refusal::Malformed)?;
        // RFC 8945, section 5.2.2.1.
        if tsig.mac.len() > key.output || tsig.mac.len() < LEAST_MAC.max(key.output / 2) {
            return Err(Refusal::Malformed.into());
        }
        if !key.has_signed(&bytes, &tsig.mac) {
            return Err(Refusal::Signature { key: key.name.clone(), owner, tsig }.into());
        }
        if tsig.time.abs_diff(now) > u64::from(tsig.fudge.min(FUDGE)) {
            return Err(Refusal::Time { signed, now }.into());
        }
        if tsig.mac.len() < key.output {
            return Err(Refusal::Truncated { signed }.into());
        }
        Ok(signed)
    }
}

/// The owner and the data of the record at a place.
fn read(raw: &[u8], at: usize) -> Option<(Name, TSIG)> {
    let decoder = BinDecoder::new(raw);
    let record = Record::read(&mut decoder.clone(u16::try_from(at).ok()?)).ok()?;
    let RData::TSIG(tsig) = record.data else { return None };
    Some((record.name, tsig))
}

/// What was signed: the message without the record, and the record's variables
/// (RFC 8945, section 4.3).
fn signed_bytes(raw: &[u8], at: usize, owner: &Name, tsig: &TSIG) -> Option<Vec<u8>> {
    let mut bytes = raw.get(..at)?.to_vec();
    bytes.get_mut(..2)?.copy_from_slice(&tsig.oid.to_be_bytes());
    let additionals = u16::from_be_bytes([*bytes.get(10)?, *bytes.get(11)?]).checked_sub(1)?;
    bytes.get_mut(10..12)?.copy_from_slice(&additionals.to_be_bytes());
    let mut variables = Vec::new();
    tsig.emit_tsig_for_mac(&mut BinEncoder::new(&mut variables), owner).ok()?;
    bytes.extend(variables);
    Some(bytes)
}

/// A request whose signature counts.
#[derive(Clone, Debug)]
pub struct Signed {
    /// Who signed.
    pub key: Arc<Key>,
    /// The signature.
    pub mac: Vec<u8>,
    /// When, in seconds since 1970.
    pub time: u64,
}

impl Signed {
    /// Signs the answer, or the first message of several; gives its signature.
    pub fn sign(&self, answer: &mut Vec<u8>) -> Vec<u8> {
        self.sign_with(answer, seconds(), None, vec![])
    }

    /// Signs a message after the first: over the last signature and the time
    /// only (RFC 8945, section 5.3.1).
    pub fn sign_next(&self, answer: &mut Vec<u8>, last: &[u8]) -> Vec<u8> {
        let now = seconds();
        let mut bytes = Vec::with_capacity(answer.len() + 80);
        bytes.extend(u16::try_from(last.len()).unwrap_or(0).to_be_bytes());
        bytes.extend(last);
        bytes.extend_from_slice(answer);
        bytes.extend(&now.to_be_bytes()[2..]);
        bytes.extend(FUDGE.to_be_bytes());
        let mac = self.key.signer.sign(&bytes).unwrap_or_default();
        append(
            answer,
            self.key.signer.signer_name(),
            self.record(id(answer), now, None, vec![]).set_mac(mac.clone()),
        );
        mac
    }

    fn record(&self, id: u16, time: u64, error: Option<TsigError>, other: Vec<u8>) -> TSIG {
        TSIG::new(self.key.signer.algorithm().clone(), time, FUDGE, vec![], id, error, other)
    }

    fn sign_with(
        &self,
        answer: &mut Vec<u8>,
        time: u64,
        error: Option<TsigError>,
        other: Vec<u8>,
    ) -> Vec<u8> {
        let record = self.record(id(answer), time, error, other);
        let bytes = self.key.signer.encode_response_tbs(&self.mac, answer, &record).unwrap_or_default();
        let mac = self.key.signer.sign(&bytes).unwrap_or_default();
        append(answer, self.key.signer.signer_name(), record.set_mac(mac.clone()));
        mac
    }

    /// Bytes that the signature adds to an answer, at most.
    #[must_use]
    pub fn room(&self) -> usize {
        // Owner, fixed fields, the algorithm's name, times and lengths, MAC, other data.
        self.key.signer.signer_name().len() + 10 + 16 + 16 + 64 + 6
    }
}

/// The ID that an answer has when it is signed. That of the question's record
/// is another one where the question was forwarded (RFC 8945, section 4.2).
fn id(answer: &[u8]) -> u16 {
    answer.first_chunk::<2>().map_or(0, |id| u16::from_be_bytes(*id))
}

fn append(answer: &mut Vec<u8>, owner: &Name, tsig: TSIG) {
    let mut bytes = Vec::new();
    if make_tsig_record(owner.clone(), tsig).emit(&mut BinEncoder::new(&mut bytes)).is_ok() {
        answer.extend(bytes);
        count(answer, Section::Additional, 1);
    }
}

/// Why a signature does not count (RFC 8945, section 5.2).
#[derive(Debug)]
pub enum Refusal {
    /// The record cannot be read: FORMERR.
    Malformed,
    /// BADKEY.
    Key {
        /// The name of the key.
        owner: Name,
        /// The record.
        tsig: TSIG,
    },
    /// BADSIG.
    Signature {
        /// The key.
        key: String,
        /// Its name as it came.
        owner: Name,
        /// The record.
        tsig: TSIG,
    },
    /// BADTRUNC: the beginning of a good signature.
    Truncated {
        /// What was signed.
        signed: Signed,
    },
    /// BADTIME.
    Time {
        /// What was signed.
        signed: Signed,
        /// This server's time.
        now: u64,
    },
}

impl Refusal {
    /// The response code.
    #[must_use]
    pub fn rcode(&self) -> u8 {
        match self {
            Self::Malformed => rcode::FORMERR,
            Self::Key { .. } | Self::Signature { .. } | Self::Truncated { .. } | Self::Time { .. } => {
                rcode::NOTAUTH
            }
        }
    }

    /// Puts what the client must know onto an answer with that code.
    pub fn append(self, answer: &mut Vec<u8>) {
        let unsigned = |answer: &mut Vec<u8>, owner: Name, tsig: TSIG, error| {
            let TSIG { algorithm, time, fudge, .. } = tsig;
            let record = TSIG::new(algorithm, time, fudge, vec![], id(answer), Some(error), vec![]);
            append(answer, &owner, record);
        };
        match self {
            Self::Malformed => {}
            Self::Key { owner, tsig } => unsigned(answer, owner, tsig, TsigError::BadKey),
            Self::Signature { owner, tsig, .. } => unsigned(answer, owner, tsig, TsigError::BadSig),
            Self::Truncated { signed } => {
                signed.sign_with(answer, seconds(), Some(TsigError::BadTrunc), vec![]);
            }
            // With the client's time, and this server's beside it.
            Self::Time { signed, now } => {
                let other = now.to_be_bytes()[2..].to_vec();
                signed.sign_with(answer, signed.time, Some(TsigError::BadTime), other);
            }
        }
    }

    /// The key that was meant.
    #[must_use]
    pub fn key(&self) -> String {
        match self {
            Self::Malformed => "-".into(),
            Self::Key { owner, .. } => owner.to_ascii(),
            Self::Signature { key, .. } => key.clone(),
            Self::Truncated { signed } | Self::Time { signed, .. } => signed.key.name.clone(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("the TSIG record cannot be read"),
            Self::Key { tsig, .. } => {
                write!(f, "there is no such key with {} here (BADKEY)", tsig.algorithm)
            }
            Self::Signature { .. } => {
                f.write_str("the signature is wrong (BADSIG): is the secret the same on both sides?")
            }
            Self::Truncated { signed } => {
                write!(f, "its signature has {} bytes, which are too few (BADTRUNC)", signed.mac.len())
            }
            Self::Time { signed, now } => {
                let skew = signed.time.abs_diff(*now);
                let way = if signed.time < *now { "behind" } else { "ahead of" };
                write!(f, "the client's clock is {skew} s {way} this server's (BADTIME)")
            }
        }
    }
}

/// The time in seconds since 1970.
#[must_use]
pub fn seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::io::Write as _;

    pub(crate) fn key(grants: Vec<Grant>) -> Key {
        keyed("vipd.", grants)
    }

    pub(crate) fn named(name: &str) -> Key {
        keyed(name, vec![])
    }

    fn keyed(name: &str, grants: Vec<Grant>) -> Key {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "{}", BASE64.encode(&[7; 32])).unwrap();
        let settings = dnsd::Key {
            name: name.into(),
            algorithm: KeyAlgorithm::HmacSha256,
            secret_file: file.path().into(),
            grants,
        };
        Key::load(&settings).unwrap()
    }

    pub(crate) fn signed(key: &Arc<Key>, time: u64, mac: &[u8]) -> Signed {
        Signed { key: Arc::clone(key), mac: mac.to_vec(), time }
    }

    #[test]
    fn a_grant_is_for_a_name_and_its_attributes_or_for_all_below() {
        let one = Grant { names: Names::One("db.corp.example.".into()), types: vec![1, 16] };
        let below = Grant { names: Names::Below("dyn.corp.example.".into()), types: vec![] };
        let key = key(vec![one, below]);
        let may = |name: &str, rtype| key.may(&name::from_text(name), rtype);
        assert!(may("db.corp.example.", Some(1)));
        assert!(!may("db.corp.example.", Some(28)), "not this type");
        assert!(!may("db.corp.example.", None), "not every type");
        assert!(may("_vipd.db.corp.example.", Some(16)));
        assert!(!may("_a._vipd.db.corp.example.", Some(16)));
        assert!(!may("x.db.corp.example.", Some(1)));
        assert!(may("a.b.dyn.corp.example.", None));
        assert!(!may("dyn.corp.example.", Some(1)), "below it only");
    }

    #[test]
    fn secrets_are_judged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let load = |text: &str| {
            std::fs::write(&path, text).unwrap();
            let settings = dnsd::Key {
                name: "vipd.".into(),
                algorithm: KeyAlgorithm::HmacSha512,
                secret_file: path.clone(),
                grants: vec![],
            };
            Key::load(&settings).map_err(|e| e.to_string())
        };
        assert!(load("c2VjcmV0").unwrap_err().contains("shorter than 16 bytes"));
        assert!(load("not base64!").unwrap_err().contains("is not base64"));
        let good = load(&format!("{}\n", BASE64.encode(&[1; 32]))).unwrap();
        assert!(!format!("{good:?}").contains("signer"), "secrets do not get into logs");
    }
}
