package inventory

// A Matcher finds which of many names occur in a text. It is the token scan of
// the conservative mark: a conservative garbage collector treats whatever looks
// like a pointer as one, and here a pointer is a name that stands in a text
// between characters that are no letters or digits.
//
// The text is read once. At each place where a run of letters and digits begins,
// the names that begin with that run are looked up by length; most runs begin
// no name, and cost one look-up.
type Matcher struct {
	names map[string]int32    // name -> index, as given to NewMatcher
	heads map[string]*lengths // first run of letters and digits -> lengths of the names that begin so
}

// lengths is a bit set of the lengths (up to 511) of names with one head.
// Kubernetes names have at most 253 characters (RFC 1123).
type lengths struct {
	bits [8]uint64
	max  int
}

func (l *lengths) add(n int) {
	l.bits[n>>6] |= 1 << (n & 63)
	l.max = max(l.max, n)
}

func (l *lengths) has(n int) bool { return l.bits[n>>6]&(1<<(n&63)) != 0 }

const longestName = 511

// NewMatcher makes a Matcher for names, which have to differ. They begin and
// end with a letter or a digit, as every name, label key and UID of Kubernetes
// does; others, and those longer than 511 bytes, are not looked for.
func NewMatcher(names []string) *Matcher {
	m := &Matcher{names: make(map[string]int32, len(names)), heads: map[string]*lengths{}}
	for i, n := range names {
		if n == "" || len(n) > longestName || !alnum[n[0]] || !alnum[n[len(n)-1]] {
			continue
		}
		m.names[n] = int32(i)
		end := runEnd(n, 0)
		head := n[:end]
		l := m.heads[head]
		if l == nil {
			l = new(lengths)
			m.heads[head] = l
		}
		l.add(len(n))
	}
	return m
}

// Find calls hit with the index of each name that occurs in text and the place
// where it starts, once per occurrence, and stops when hit returns false.
func (m *Matcher) Find(text []byte, hit func(name, start int) bool) {
	for i := 0; i < len(text); {
		if !alnum[text[i]] {
			i++
			continue
		}
		end := i + 1
		for end < len(text) && alnum[text[end]] {
			end++
		}
		if !m.at(text, i, end, hit) {
			return
		}
		// A run may begin with the tail of an escape: \n, \u002f, \x2f and %2F are
		// one character each to the program that reads the text.
		if i > 0 {
			for _, n := range escapeTails(text[i-1], text[i]) {
				if i+n < end && !m.at(text, i+n, end, hit) {
					return
				}
			}
		}
		i = end
	}
}

// at looks up the names that begin at start, where end is the end of the run.
func (m *Matcher) at(text []byte, start, end int, hit func(name, start int) bool) bool {
	l := m.heads[string(text[start:end])]
	if l == nil {
		return true
	}
	for e := end; e-start <= l.max; {
		if l.has(e - start) {
			if i, ok := m.names[string(text[start:e])]; ok && !hit(int(i), start) {
				return false
			}
		}
		// A name may end in the middle of no run: go on to the next run's end,
		// over at most the separators that are there.
		for e < len(text) && !alnum[text[e]] {
			e++
		}
		if e == len(text) {
			break
		}
		for e < len(text) && alnum[text[e]] {
			e++
		}
	}
	return true
}

// escapeTails returns how many characters of a run can belong to an escape that
// the characters before and first begin.
func escapeTails(before, first byte) []int {
	switch {
	case before == '\\' && first == 'u':
		return []int{1, 5}
	case before == '\\' && first == 'U': // YAML, Go, C
		return []int{1, 9}
	case before == '\\' && (first == 'x' || first >= '0' && first <= '7'):
		return []int{1, 3}
	case before == '\\':
		return []int{1}
	case before == '%': // URLs; %252F is an escaped %2F
		return []int{2, 4}
	}
	return nil
}

func runEnd(s string, i int) int {
	for i < len(s) && alnum[s[i]] {
		i++
	}
	return i
}

var alnum = func() (t [256]bool) {
	for c := range t {
		// Bytes of characters outside of ASCII separate: no name has any, and a
		// quotation mark may be one.
		t[c] = c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
	}
	return t
}()
