package dump

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"io"
	"regexp"
	"strings"
)

// Removed stands where a text held a private key.
const Removed = "[removed: private key]"

// Scrub returns s, or Removed if there is a private key in it.
func Scrub(s string) string {
	if HasPrivateKey(s) {
		return Removed
	}
	return s
}

// HasPrivateKey reports whether a text holds a private key: PEM (RFC 7468, OpenSSH,
// PGP), DER (PKCS #1, PKCS #8, SEC 1), a PKCS #12 or Java key store, a PuTTY
// key, or a JSON web key, as it is or in base64, hexadecimal, gzip or zlib, or in
// those within each other. Where it cannot look, because a text is
// compressed beyond what it is willing to unpack, the answer is yes.
func HasPrivateKey(s string) bool { return hasKey([]byte(s), maxWrapped) }

const (
	// maxWrapped is how many encodings within each other are taken off.
	maxWrapped = 4
	// maxUnpacked is how much one text may unpack to, in bytes.
	maxUnpacked = 4 << 20
	// shortest is the number of characters of an encoded text that is worth
	// decoding: the secret half of an Ed25519 key has 44 in base64.
	shortest = 24
)

// armour finds the first or last line of a key's PEM, also where quoting or
// URL encoding has changed what stands between the words, and where the text is
// cut off.
var armour = func() *regexp.Regexp {
	const gap = `(?:[^A-Za-z0-9]|%20|u0020|x20){1,8}`
	const dash = `\\?(?:-|%2[dD]|u002[dD]|x2[dD])`
	return regexp.MustCompile(
		`(?i:PRIVATE` + gap + `KEY(?:` + gap + `BLOCK)?(?:` + dash + `){2})` +
			`|(?:BEGIN|END)` + gap + `(?:[A-Z0-9]+` + gap + `){0,3}PRIVATE` + gap + `KEY` +
			`|PuTTY-User-Key-File|openssh-key-v1`)
}()

// jwk finds the private member of a JSON web key (RFC 7518, sections 6.2.2 and 6.3.2).
var jwk = regexp.MustCompile(`\\?"(?:d|k)\\?"\s*:\s*\\?"[A-Za-z0-9_-]{20,}`)

// Runs of characters that may be an encoded text. Line ends, also escaped ones
// (\n) and those of YAML or mail, may stand in them.
var (
	base64Run  = regexp.MustCompile(`[A-Za-z0-9+/_-](?:[A-Za-z0-9+/_-]|\\[nr]|\\u000[adAD]|%0[aAdD]|[\s\x00])*`)
	base64Word = regexp.MustCompile(`[A-Za-z0-9+/_-]{24,}`)
	hexRun     = regexp.MustCompile(`(?i)[0-9a-f](?:[0-9a-f]|[\s:])*`)
	breaks     = regexp.MustCompile(`\\[nr]|\\u000[adAD]|%0[aAdD]|[\s\x00]`)
	hexBreaks  = regexp.MustCompile(`[\s:]`)
)

// needles are what "PRIVATE KEY" looks like in base64, by where in a group of
// three bytes it begins, and the same of that in base64 again. They find what is cut
// off in a way that decodes to nothing.
var needles = func() (out [][]byte) {
	level := []string{"PRIVATE KEY"}
	for range 3 {
		var next []string
		for _, text := range level {
			for shift := range 3 {
				enc := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("\x00", shift) + text))
				// The characters at either end depend on the neighbours, too.
				from, to := (shift*8+5)/6, (shift+len(text))*8/6
				next = append(next, enc[from:to])
			}
		}
		for _, n := range next {
			out = append(out, []byte(n))
		}
		level = next
	}
	return out
}()

func hasKey(s []byte, depth int) bool {
	if len(s) < shortest && !bytes.Contains(bytes.ToUpper(s), []byte("KEY")) {
		return false
	}
	if name(s) {
		return false
	}
	if isDER(s) || armour.Match(s) {
		return true
	}
	if plain, ok := unpack(s); !ok || plain != nil && (depth == 0 || hasKey(plain, depth-1)) {
		return true
	}
	if bytes.IndexByte(s, 0) >= 0 {
		// UTF-16 is ASCII with a zero beside each character.
		s = append(bytes.ReplaceAll(s, []byte{0}, nil), append([]byte("\n\n"), s...)...)
		if armour.Match(s) {
			return true
		}
	}
	if bytes.Contains(s, []byte(`"kty`)) || bytes.Contains(s, []byte(`\"kty`)) {
		if jwk.Match(s) {
			return true
		}
	}
	dense := breaks.ReplaceAll(s, nil)
	for _, n := range needles {
		if bytes.Contains(dense, n) {
			return true
		}
	}
	if depth == 0 {
		return false
	}
	for _, run := range base64Run.FindAll(s, -1) {
		if len(run) < shortest {
			continue
		}
		if decodedHasKey(run, depth) {
			return true
		}
	}
	for _, word := range base64Word.FindAll(s, -1) {
		// The run that this word stands in may begin before it.
		if decodedHasKey(word, depth) {
			return true
		}
	}
	for _, run := range hexRun.FindAll(s, -1) {
		run = hexBreaks.ReplaceAll(run, nil)
		if len(run) < 2*shortest {
			continue
		}
		for shift := range 2 {
			out := make([]byte, (len(run)-shift)/2)
			n, _ := hex.Decode(out, run[shift:shift+len(out)*2])
			if hasKey(out[:n], depth-1) {
				return true
			}
		}
	}
	return false
}

// name reports whether a text looks like nothing but names, as most do: it has
// only small letters, digits and what stands between those, and no
// run of digits that is long enough for a key in hexadecimal. In base64 each
// text of PEM, and the beginning of any key in DER, has capital letters.
func name(s []byte) bool {
	run := 0
	for _, c := range s {
		switch {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'f':
			run++
		case c >= 'g' && c <= 'z', c == '-', c == '.', c == '/', c == '*', c == ',':
			run = 0
		default:
			return false
		}
		if run >= 2*shortest {
			return false
		}
	}
	return !bytes.Contains(s, []byte("private")) || !bytes.Contains(s, []byte("--"))
}

// decodedHasKey looks into what a run of base64 characters may stand for. What
// stands before the encoded text may shift it, as in "key/LS0t...": then it
// begins behind one of the separators, or at any of four places.
func decodedHasKey(run []byte, depth int) bool {
	run = breaks.ReplaceAll(run, nil)
	for i, c := range run {
		switch c {
		case '-':
			run[i] = '+'
		case '_':
			run[i] = '/'
		}
	}
	starts := []int{0, 1, 2, 3}
	for i, c := range run {
		if (c == '+' || c == '/') && len(starts) < 64 && i+1 < len(run) {
			// Behind a slash or a dash, DER may begin at an odd place; text is
			// found from any.
			if bytes.HasPrefix(run[i+1:], []byte("MI")) || bytes.HasPrefix(run[i+1:], []byte("MC")) || bytes.HasPrefix(run[i+1:], []byte("MH")) || bytes.HasPrefix(run[i+1:], []byte("H4sI")) {
				starts = append(starts, i+1)
			}
		}
	}
	for _, from := range starts {
		if from >= len(run) {
			continue
		}
		part := run[from:]
		part = part[:len(part)/4*4+map[bool]int{true: len(part) % 4}[len(part)%4 != 1]]
		out := make([]byte, base64.RawStdEncoding.DecodedLen(len(part)))
		n, _ := base64.RawStdEncoding.Decode(out, part)
		if hasKey(out[:n], depth-1) {
			return true
		}
	}
	return false
}

// isDER reports whether bytes begin with a key or a key store in a binary form.
func isDER(b []byte) bool {
	if bytes.HasPrefix(b, []byte{0xfe, 0xed, 0xfe, 0xed}) || bytes.HasPrefix(b, []byte{0xce, 0xce, 0xce, 0xce}) {
		return true // Java's JKS and JCEKS
	}
	if len(b) < 16 || b[0] != 0x30 {
		return false
	}
	head, size := 2, int(b[1])
	if b[1] >= 0x80 {
		k := int(b[1] & 0x7f)
		if k == 0 || k > 4 {
			return false
		}
		head, size = 2+k, 0
		for _, c := range b[2 : 2+k] {
			size = size<<8 | int(c)
		}
	}
	body := b[head:]
	switch {
	case bytes.HasPrefix(body, []byte{2, 1, 3, 0x30}):
		return true // PKCS #12 (RFC 7292, PFX)
	case bytes.HasPrefix(body, []byte{2, 1, 0, 2}), // PKCS #1, also cut off
		bytes.HasPrefix(body, []byte{2, 1, 0, 0x30}), bytes.HasPrefix(body, []byte{2, 1, 1, 0x30}), // PKCS #8
		bytes.HasPrefix(body, []byte{2, 1, 1, 4}): // SEC 1
		return true
	case bytes.Contains(b[:min(len(b), 64)], []byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x05}):
		return true // encrypted PKCS #8: an algorithm of PKCS #5
	}
	if size > len(body) {
		return false
	}
	if _, err := x509.ParsePKCS8PrivateKey(b[:head+size]); err == nil {
		return true
	}
	return false
}

// unpack unpacks what is compressed: nil if it is not. ok is false where it is,
// but cannot be unpacked, or not in full.
func unpack(b []byte) (out []byte, ok bool) {
	var z io.Reader
	var err error
	switch {
	case bytes.HasPrefix(b, []byte{0x1f, 0x8b, 8}):
		z, err = gzip.NewReader(bytes.NewReader(b))
		if err != nil {
			return nil, false
		}
	case len(b) > 2 && b[0] == 0x78 && (uint16(b[0])<<8|uint16(b[1]))%31 == 0:
		// Two bytes of text may look like zlib, too.
		if z, err = zlib.NewReader(bytes.NewReader(b)); err != nil {
			return nil, true
		}
	case bytes.HasPrefix(b, []byte("PK\x03\x04")), bytes.HasPrefix(b, []byte{0x28, 0xb5, 0x2f, 0xfd}),
		bytes.HasPrefix(b, []byte("\xfd7zXZ")), bytes.HasPrefix(b, []byte("BZh91AY")):
		return nil, false
	default:
		return nil, true
	}
	out, err = io.ReadAll(io.LimitReader(z, maxUnpacked+1))
	if len(out) > maxUnpacked {
		return nil, false
	}
	if err != nil && len(out) == 0 {
		return nil, true
	}
	return out, true
}

// scrub replaces every string of a document in which there is a private key,
// in place of maps and lists, and returns the document.
func scrub(v any) any {
	switch v := v.(type) {
	case string:
		return Scrub(v)
	case []any:
		for i := range v {
			v[i] = scrub(v[i])
		}
	case map[string]any:
		for k, x := range v {
			if HasPrivateKey(k) {
				delete(v, k)
				v[Removed] = nil
				continue
			}
			v[k] = scrub(x)
		}
	}
	return v
}

// withoutMarkers takes out what Scrub put in, so that its words are not taken
// for names.
func withoutMarkers(doc []byte) []byte {
	if bytes.Contains(doc, []byte(Removed)) {
		return bytes.ReplaceAll(doc, []byte(Removed), nil)
	}
	return doc
}
