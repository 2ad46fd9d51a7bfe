package node

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"chorus/ledger/notice"

	"filippo.io/age"
	"filippo.io/age/armor"
	"github.com/ipfs/go-cid"
)

// Errors about key files.
var (
	ErrLocked     = errors.New("the key is protected by a passphrase")
	ErrPassphrase = errors.New("this is not the key's passphrase")
)

// A KeyInfo is what a key file says in the clear.
type KeyInfo struct {
	Key     notice.PublicKey // the public half
	Use     string           // what it was made for, such as "revoker"; may be empty
	Member  string           // whose it is; may be empty
	Charter cid.Cid          // version 1 of the charter that it is for; may be undefined
	Peers   []string         // multiaddrs of nodes, ending in /p2p/…; may be empty
}

// A KeyFile is one Ed25519 key as a file holds it: a block "CHORUS KEY" that says what it is, which a key that says nothing
// lacks, and the key itself. That is a block "PRIVATE KEY" (PKCS #8), as openssl reads it, or the same encrypted with a
// passphrase, as `age --decrypt` does.
type KeyFile struct {
	KeyInfo
	private ed25519.PrivateKey // nil while it is locked
	sealed  []byte             // the armored age file; nil if it is not protected
}

const (
	pemInfo    = "CHORUS KEY"
	pemPrivate = "PRIVATE KEY"
	ageHeader  = armor.Header

	maxKeyFile  = 64 << 10
	maxKeyPeers = 16
	maxKeyText  = 256 // of one header
)

// scryptWork is the logarithm of scrypt's work factor: about a second. Only tests change it.
var scryptWork = 18

// NewKeyFile makes a key.
func NewKeyFile(info KeyInfo) (*KeyFile, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	return KeyFileOf(private, info), nil
}

// KeyFileOf returns the unprotected file of a key.
func KeyFileOf(private ed25519.PrivateKey, info KeyInfo) *KeyFile {
	info.Key = notice.PublicKeyOf(private)
	return &KeyFile{KeyInfo: info, private: private}
}

// Protected reports whether a passphrase is needed to read the key from its file.
func (f *KeyFile) Protected() bool { return f.sealed != nil }

// Private returns the key, or an error that wraps [ErrLocked].
func (f *KeyFile) Private() (ed25519.PrivateKey, error) {
	if f.private == nil {
		return nil, fmt.Errorf("%s: %w", f.Key, ErrLocked)
	}
	return f.private, nil
}

// Open decrypts the key. The error wraps [ErrPassphrase] if the passphrase is another.
func (f *KeyFile) Open(passphrase string) error {
	if f.private != nil {
		return nil
	}
	identity, err := age.NewScryptIdentity(passphrase)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrPassphrase, err)
	}
	r, err := age.Decrypt(armor.NewReader(bytes.NewReader(f.sealed)), identity)
	if none := (*age.NoIdentityMatchError)(nil); errors.As(err, &none) {
		return ErrPassphrase
	} else if err != nil {
		return err
	}
	b, err := io.ReadAll(io.LimitReader(r, maxKeyFile))
	if err != nil {
		return err
	}
	private, err := parsePrivate(b)
	if err != nil {
		return err
	}
	if notice.PublicKeyOf(private) != f.Key {
		return fmt.Errorf("holds another key than %s, as it says", f.Key)
	}
	f.private = private
	return nil
}

// Protect encrypts the key, which must be open, with a passphrase; an empty one takes the protection away.
func (f *KeyFile) Protect(passphrase string) error {
	private, err := f.Private()
	if err != nil || passphrase == "" {
		f.sealed = nil
		return err
	}
	plain, err := encodePrivate(private)
	if err != nil {
		return err
	}
	recipient, err := age.NewScryptRecipient(passphrase)
	if err != nil {
		return err
	}
	recipient.SetWorkFactor(scryptWork)
	var b bytes.Buffer
	armored := armor.NewWriter(&b)
	w, err := age.Encrypt(armored, recipient)
	if err != nil {
		return err
	}
	if _, err := w.Write(plain); err != nil {
		return err
	}
	if err := errors.Join(w.Close(), armored.Close()); err != nil {
		return err
	}
	f.sealed = b.Bytes()
	return nil
}

// Encode returns the bytes of the file.
func (f *KeyFile) Encode() ([]byte, error) {
	info := f.KeyInfo
	info.Key = notice.PublicKey{}
	var b []byte
	if f.sealed != nil || info.Use != "" || info.Member != "" || info.Charter.Defined() || len(info.Peers) > 0 {
		if err := f.KeyInfo.validate(); err != nil {
			return nil, err
		}
		b = f.KeyInfo.encode()
	}
	if f.sealed != nil {
		return append(b, f.sealed...), nil
	}
	private, err := f.Private()
	if err != nil {
		return nil, err
	}
	plain, err := encodePrivate(private)
	return append(b, plain...), err
}

func encodePrivate(key ed25519.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemPrivate, Bytes: der}), nil
}

func parsePrivate(b []byte) (ed25519.PrivateKey, error) {
	block, rest := pem.Decode(b)
	if block == nil || block.Type != pemPrivate || len(rest) > 0 {
		return nil, fmt.Errorf("expected one PEM block %q", pemPrivate)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	private, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("holds a %T, expected an Ed25519 key", key)
	}
	return private, nil
}

// encode returns the block that says what the key is. There is one spelling.
func (i KeyInfo) encode() []byte {
	headers := map[string]string{"Key": i.Key.String()}
	if i.Use != "" {
		headers["Use"] = i.Use
	}
	if i.Member != "" {
		headers["Member"] = i.Member
	}
	if i.Charter.Defined() {
		headers["Charter"] = i.Charter.String()
	}
	for n, p := range i.Peers {
		headers[fmt.Sprintf("Peer-%d", n+1)] = p
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemInfo, Headers: headers})
}

func (i KeyInfo) validate() error {
	texts := append([]string{i.Use, i.Member}, i.Peers...)
	for _, s := range texts {
		if len(s) > maxKeyText || strings.TrimSpace(s) != s || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) {
			return fmt.Errorf("a header of a key is one line of at most %d plain characters, not %.80q", maxKeyText, s)
		}
	}
	if len(i.Peers) > maxKeyPeers {
		return fmt.Errorf("a key names at most %d peers, not %d", maxKeyPeers, len(i.Peers))
	}
	if slices.Contains(i.Peers, "") {
		return errors.New("a key names a peer without an address")
	}
	return nil
}

// parseInfo reads the block that says what a key is.
func parseInfo(block *pem.Block) (i KeyInfo, err error) {
	for name, value := range block.Headers {
		switch {
		case name == "Key":
			i.Key, err = notice.ParsePublicKey(value)
		case name == "Use":
			i.Use = value
		case name == "Member":
			i.Member = value
		case name == "Charter":
			i.Charter, err = cid.Decode(value)
		case strings.HasPrefix(name, "Peer-"): // in order, below
		default:
			err = fmt.Errorf("unknown header %.80q", name)
		}
		if err != nil {
			return i, err
		}
	}
	for n := 1; ; n++ {
		p, ok := block.Headers["Peer-"+strconv.Itoa(n)]
		if !ok {
			break
		}
		i.Peers = append(i.Peers, p)
	}
	return i, i.validate()
}

// ParseKeyFile reads what [KeyFile.Encode] wrote. Of a protected key the file alone is read, and not the key.
func ParseKeyFile(b []byte) (*KeyFile, error) {
	if len(b) > maxKeyFile {
		return nil, fmt.Errorf("%d bytes, expected at most %d", len(b), maxKeyFile)
	}
	f := new(KeyFile)
	said := false
	if block, rest := pem.Decode(b); block != nil && block.Type == pemInfo {
		info, err := parseInfo(block)
		if err != nil {
			return nil, fmt.Errorf("block %q: %w", pemInfo, err)
		}
		if !bytes.Equal(info.encode(), b[:len(b)-len(rest)]) {
			return nil, fmt.Errorf("block %q is not spelled as chorus does", pemInfo)
		}
		f.KeyInfo, b, said = info, rest, true
	}
	if bytes.HasPrefix(b, []byte(ageHeader)) {
		if !said {
			return nil, fmt.Errorf("an encrypted key without a block %q before it", pemInfo)
		}
		if trimmed := bytes.TrimSpace(b); !bytes.HasSuffix(trimmed, []byte(armor.Footer)) {
			return nil, errors.New("the encrypted key is cut short")
		}
		f.sealed = bytes.Clone(b)
		return f, nil
	}
	var err error
	if f.private, err = parsePrivate(b); err != nil {
		return nil, err
	}
	if key := notice.PublicKeyOf(f.private); said && key != f.Key {
		return nil, fmt.Errorf("holds the key %s, and says %s", key, f.Key)
	} else {
		f.Key = key
	}
	return f, nil
}

// ReadKeyFile reads a key file. It refuses one that others on this machine may read or change.
func ReadKeyFile(path string) (*KeyFile, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 && runtime.GOOS != "windows" { // which says in other ways who may read a file
		return nil, fmt.Errorf("%s may be read or changed by others on this machine (mode %04o), which a key must not: chmod 600 %s", path, mode, path)
	}
	if info.Size() > maxKeyFile {
		return nil, fmt.Errorf("%s: %d bytes, expected at most %d", path, info.Size(), maxKeyFile)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	f, err := ParseKeyFile(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

// Write puts the file in place, readable by its owner alone.
func (f *KeyFile) Write(path string) error {
	b, err := f.Encode()
	if err != nil {
		return err
	}
	return writeFile(path, b)
}
