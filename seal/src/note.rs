//! Signed notes (<https://c2sp.org/signed-note>): a text, an empty line, and signatures by named Ed25519 keys. Keys are
//! written as the specification and Go's `golang.org/x/mod/sumdb/note` write them.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};

/// Ed25519, in the specification's list of signature types.
const ED25519: u8 = 1;
/// The longest note that is read, in bytes.
const MAX_NOTE: usize = 64 << 10;
const PRIVATE: &str = "PRIVATE+KEY+";

/// A key or a note is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// A key that cannot be read, or a name that no key may have.
    #[error("{0}")]
    Key(String),
    /// Not in the format of a signed note.
    #[error("no signed note: {0}")]
    Malformed(&'static str),
    /// No key that is known has signed it.
    #[error("not signed by {wanted}; it carries signatures of {found}")]
    Unknown {
        /// The keys that were known.
        wanted: String,
        /// Who signed it, by their own word.
        found: String,
    },
    /// A known key's signature does not belong to this text.
    #[error("the signature of {0} does not belong to this text")]
    Forged(String),
}

fn key_id(name: &str, public: &[u8; 32]) -> u32 {
    let hash = Sha256::new().chain_update(name).chain_update([b'\n', ED25519]).chain_update(public).finalize();
    let [a, b, c, d, ..] = <[u8; 32]>::from(hash);
    u32::from_be_bytes([a, b, c, d])
}

fn check_name(name: &str) -> Result<(), NoteError> {
    let problem = if name.is_empty() {
        "is empty"
    } else if name.chars().any(|c| c.is_whitespace() || c.is_control() || c == '+') {
        "has a space, a `+` or a control character"
    } else {
        return Ok(());
    };
    Err(NoteError::Key(format!("the key's name {name:?} {problem}")))
}

/// The 32 bytes of an Ed25519 key in base64, behind the type of signature.
fn key_bytes(text: &str) -> Option<[u8; 32]> {
    let bytes = BASE64.decode(text).ok()?;
    let (kind, key) = bytes.split_first()?;
    (*kind == ED25519).then(|| key.try_into().ok())?
}

/// A private key with its name.
pub struct Signer {
    verifier: Verifier,
    key: SigningKey,
}

impl Signer {
    fn new(name: &str, seed: &[u8; 32]) -> Result<Self, NoteError> {
        check_name(name)?;
        let key = SigningKey::from_bytes(seed);
        let public = key.verifying_key();
        let verifier = Verifier { name: name.to_owned(), id: key_id(name, public.as_bytes()), key: public };
        Ok(Signer { verifier, key })
    }

    /// A new key, from the operating system's randomness.
    ///
    /// # Errors
    /// No key may have this name, or there is no randomness.
    pub fn generate(name: &str) -> Result<Self, NoteError> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|e| NoteError::Key(format!("the system gave no randomness: {e}")))?;
        Signer::new(name, &seed)
    }

    /// The key that verifies what this one signs.
    pub fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    /// The private key as text: `PRIVATE+KEY+<name>+<id>+<base64>`, as Go's package writes it.
    pub fn secret(&self) -> String {
        let bytes = [&[ED25519][..], self.key.as_bytes()].concat();
        format!("{PRIVATE}{}+{:08x}+{}", self.verifier.name, self.verifier.id, BASE64.encode(bytes))
    }

    /// A text, which ends with a line break, as a signed note.
    pub fn sign(&self, text: &str) -> String {
        let signature = self.key.sign(text.as_bytes()).to_bytes();
        let bytes = [&self.verifier.id.to_be_bytes()[..], &signature].concat();
        format!("{text}\n— {} {}\n", self.verifier.name, BASE64.encode(bytes))
    }
}

/// Says no more than the public half.
impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", self.verifier)
    }
}

impl FromStr for Signer {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, NoteError> {
        // What is wrong with a private key is said without showing it.
        let wrong = || NoteError::Key("no private key; `primalcore audit keygen --out FILE` writes one".to_owned());
        let (rest, seed) = text.trim().strip_prefix(PRIVATE).and_then(|rest| rest.split_once('+')).ok_or_else(wrong)?;
        let (id, seed) = seed.split_once('+').ok_or_else(wrong)?;
        let signer = Signer::new(rest, &key_bytes(seed).ok_or_else(wrong)?)?;
        match id == format!("{:08x}", signer.verifier.id) {
            true => Ok(signer),
            false => Err(NoteError::Key(format!("the id in the private key of {rest} is not that of the key"))),
        }
    }
}

/// A public key with its name: `<name>+<id>+<base64>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verifier {
    name: String,
    id: u32,
    key: VerifyingKey,
}

impl Verifier {
    /// Name and id, which tell it from other keys: `<name>+<id>`.
    pub fn label(&self) -> String {
        format!("{}+{:08x}", self.name, self.id)
    }
}

impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [&[ED25519][..], self.key.as_bytes()].concat();
        write!(f, "{}+{:08x}+{}", self.name, self.id, BASE64.encode(bytes))
    }
}

impl FromStr for Verifier {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, NoteError> {
        let text = text.trim();
        if text.starts_with(PRIVATE) {
            return Err(NoteError::Key(
                "this is a private key; the line that `audit keygen` printed is wanted".to_owned(),
            ));
        }
        let wrong =
            || NoteError::Key(format!("{text:?} is no verifier key `<name>+<8 hex digits>+<base64>` for Ed25519"));
        // The base64 may have a `+` of its own, a name may not.
        let (name, rest) = text.split_once('+').ok_or_else(wrong)?;
        let (id, key) = rest.split_once('+').ok_or_else(wrong)?;
        check_name(name)?;
        let public = key_bytes(key).ok_or_else(wrong)?;
        let key = VerifyingKey::from_bytes(&public).map_err(|_| wrong())?;
        let computed = key_id(name, &public);
        match id == format!("{computed:08x}") {
            true => Ok(Verifier { name: name.to_owned(), id: computed, key }),
            false => Err(NoteError::Key(format!("the id in {text:?} is not that of the key, {computed:08x}"))),
        }
    }
}

/// The text of a note that one of these keys has signed, and which.
///
/// # Errors
/// It is no note, none of the keys signed it, or the signature of one of them does not fit.
pub fn open<'n, 'k>(note: &'n str, keys: &'k [Verifier]) -> Result<(&'n str, &'k Verifier), NoteError> {
    let malformed = |what| Err(NoteError::Malformed(what));
    if note.len() > MAX_NOTE {
        return malformed("it is longer than 64 KiB");
    }
    if note.chars().any(|c| c < ' ' && c != '\n') {
        return malformed("it has a control character");
    }
    let Some((text, signatures)) = note.rfind("\n\n").map(|at| note.split_at(at + 1)) else {
        return malformed("there is no empty line before the signatures");
    };
    let Some(signatures) = signatures.trim_start_matches('\n').strip_suffix('\n') else {
        return malformed("the last line does not end");
    };
    let (mut signer, mut found) = (None, Vec::new());
    for line in signatures.split('\n') {
        let Some((name, encoded)) = line.strip_prefix("— ").and_then(|rest| rest.split_once(' ')) else {
            return malformed("a line of signatures is none");
        };
        let bytes = BASE64.decode(encoded).unwrap_or_default();
        let Some((id, signature)) = bytes.split_first_chunk().filter(|_| check_name(name).is_ok()) else {
            return malformed("a signature is none");
        };
        let id = u32::from_be_bytes(*id);
        let Some(key) = keys.iter().find(|key| key.name == name && key.id == id) else {
            found.push(format!("{name}+{id:08x}"));
            continue;
        };
        let fits = Signature::from_slice(signature).is_ok_and(|s| key.key.verify_strict(text.as_bytes(), &s).is_ok());
        if !fits {
            return Err(NoteError::Forged(key.label()));
        }
        signer = signer.or(Some(key));
    }
    let labels = |keys: &[Verifier]| keys.iter().map(Verifier::label).collect::<Vec<_>>().join(", ");
    signer.map(|key| (text, key)).ok_or_else(|| NoteError::Unknown { wanted: labels(keys), found: found.join(", ") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The example of the specification.
    const KEY: &str = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
    const NOTE: &str = "This is an example message.\n\n\
        — example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n";

    fn signer(name: &str, seed: u8) -> Signer {
        Signer::new(name, &[seed; 32]).unwrap()
    }

    #[test]
    fn the_example_of_the_specification_verifies() {
        let key: Verifier = KEY.parse().unwrap();
        assert_eq!(key.to_string(), KEY);
        assert_eq!(open(NOTE, &[signer("a", 1).verifier, key.clone()]), Ok(("This is an example message.\n", &key)));
    }

    /// The key pair and the note of Go's own test (golang.org/x/mod/sumdb/note, `TestFromEd25519` and the package example).
    #[test]
    fn signing_gives_the_bytes_that_go_gives() {
        let signer: Signer =
            "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz".parse().unwrap();
        assert_eq!(signer.verifier().to_string(), "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW");
        let text =
            "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n";
        let signed = format!(
            "{text}\n— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
        );
        assert_eq!(signer.sign(text), signed);
    }

    #[test]
    fn keys_come_back_and_say_what_is_wrong() {
        let made = Signer::generate("hub.example/log").unwrap();
        let read: Signer = made.secret().parse().unwrap();
        assert_eq!(read.verifier(), made.verifier());
        assert_eq!(made.verifier().to_string().parse(), Ok(made.verifier().clone()));
        assert!(!format!("{made:?}").contains(&made.secret()[40..]));
        let other_id = KEY.replace("530d903a", "530d903b");
        let cases: [(&str, &str); 5] = [
            ("", "no verifier key"),
            ("a+b", "no verifier key"),
            (&other_id, "is not that of the key, 530d903a"),
            ("a b+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k", "has a space"),
            (&made.secret(), "this is a private key"),
        ];
        for (text, says) in cases {
            let error = text.parse::<Verifier>().unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        for wrong in [KEY.to_owned(), made.secret().replace("PRIVATE+KEY+hub", "PRIVATE+KEY+bub")] {
            let error = wrong.parse::<Signer>().unwrap_err().to_string();
            assert!(!error.contains(&wrong[50..]), "{error}");
        }
        assert!(Signer::generate("a+b").is_err() && Signer::generate("").is_err());
    }

    #[test]
    fn a_note_without_a_good_signature_of_a_known_key_is_refused() {
        let (a, b) = (signer("a", 1), signer("b", 2));
        let text = "one\n\ntwo\n";
        let note = a.sign(text);
        let keys = [a.verifier.clone()];
        assert_eq!(open(&note, &keys), Ok((text, &keys[0])));
        // More signatures do no harm; one of a known key that does not fit does.
        let both = format!("{note}{}", b.sign(text).rsplit_once("\n\n").unwrap().1);
        assert_eq!(open(&both, &keys).unwrap().0, text);
        assert_eq!(open(&both, std::slice::from_ref(&b.verifier)).unwrap().1, &b.verifier);
        let forged = note.replace("two", "too");
        assert_eq!(open(&forged, &keys), Err(NoteError::Forged(a.verifier.label())));
        let unknown = open(&note, std::slice::from_ref(&b.verifier)).unwrap_err().to_string();
        assert_eq!(
            unknown,
            format!("not signed by {}; it carries signatures of {}", b.verifier.label(), a.verifier.label())
        );
        // The same name with another key is another key.
        assert!(matches!(open(&note, &[signer("a", 3).verifier.clone()]), Err(NoteError::Unknown { .. })));
        for bad in
            ["", "a\n", "a\n\n", "a\n\nb\n", "a\n\n— a\n", "a\n\n— a QQ==\n", note.trim_end(), "a\tb\n\n— a QUFBQQ==\n"]
        {
            assert!(matches!(open(bad, &keys), Err(NoteError::Malformed(_))), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn one_changed_byte_is_never_accepted(at in 0..NOTE.len(), to in any::<u8>()) {
            let mut bytes = NOTE.as_bytes().to_vec();
            prop_assume!(bytes[at] != to);
            bytes[at] = to;
            if let Ok(note) = std::str::from_utf8(&bytes) {
                prop_assert!(open(note, &[KEY.parse().unwrap()]).is_err(), "{note:?}");
            }
        }

        #[test]
        fn any_text_is_read_or_refused(note in "\\PC{0,80}|[a—\n =A+]{0,40}") {
            prop_assert!(open(&note, &[KEY.parse().unwrap()]).is_err());
            let _ = (note.parse::<Verifier>(), note.parse::<Signer>());
        }
    }
}
