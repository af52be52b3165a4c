package inventory

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// naive is the oracle of Matcher: every name is looked for at every place. A
// name counts where no letter or digit of ASCII is next to it, or where the
// letters and digits before it are the end of an escape.
func naive(names []string, text string) map[string]bool {
	found := map[string]bool{}
	for _, n := range names {
		if n == "" {
			continue
		}
		for from := 0; from < len(text); {
			i := strings.Index(text[from:], n)
			if i < 0 {
				break
			}
			i += from
			from = i + 1
			end := i + len(n)
			if (end == len(text) || !letterOrDigit(text[end])) && starts(text, i) {
				found[n] = true
			}
		}
	}
	return found
}

func letterOrDigit(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// starts reports whether a name may start at i: nothing of its word is before
// it but one escape.
func starts(text string, i int) bool {
	word := i
	for word > 0 && letterOrDigit(text[word-1]) {
		word--
	}
	if word == i {
		return true
	}
	if word == 0 {
		return false
	}
	between := text[word:i]
	switch text[word-1] {
	case '%':
		return len(between) == 2 || len(between) == 4
	case '\\':
		switch {
		case len(between) == 1:
			return true
		case between[0] == 'u':
			return len(between) == 5
		case between[0] == 'U':
			return len(between) == 9
		case between[0] == 'x' || '0' <= between[0] && between[0] <= '7':
			return len(between) == 3
		}
	}
	return false
}

// canBeFound reports whether a Matcher looks for a name.
func canBeFound(n string) bool {
	return n != "" && len(n) <= longestName && letterOrDigit(n[0]) && letterOrDigit(n[len(n)-1])
}

func found(m *Matcher, names []string, text string) map[string]bool {
	out := map[string]bool{}
	m.Find([]byte(text), func(i, start int) bool {
		if !strings.HasPrefix(text[start:], names[i]) {
			panic(fmt.Sprintf("%q is not at %d of %q", names[i], start, text))
		}
		out[names[i]] = true
		return true
	})
	return out
}

func checkMatcher(t *testing.T, names []string, text string) {
	t.Helper()
	slices.Sort(names)
	names = slices.DeleteFunc(slices.Compact(names), func(n string) bool { return !canBeFound(n) })
	got, want := found(NewMatcher(names), names, text), naive(names, text)
	if !maps.Equal(got, want) {
		t.Errorf("names %q\ntext  %q\nfound %v\nwant  %v", names, text, got, want)
	}
}

func TestMatcherAgreesWithNaiveSearch(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	word := func(alphabet string, n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = alphabet[r.IntN(len(alphabet))]
		}
		return string(b)
	}
	const inName, inText = "ab1-.", "ab1-.\\nuxU0%2F_/ \"\x00é:="
	for range 20000 {
		var names []string
		for range 1 + r.IntN(6) {
			names = append(names, word(inName, 1+r.IntN(5)))
		}
		text := ""
		for range r.IntN(6) {
			if r.IntN(2) == 0 {
				text += names[r.IntN(len(names))]
			}
			text += word(inText, r.IntN(6))
		}
		checkMatcher(t, names, text)
	}
}

// TestMatcherNeverMisses: whatever is no letter and no digit may surround a
// name.
func TestMatcherNeverMisses(t *testing.T) {
	names := []string{"a", "web", "web-tls", "web.example.com", "x-1", "very-" + strings.Repeat("long-", 49) + "name"}
	m := NewMatcher(names)
	for c := range 256 {
		if letterOrDigit(byte(c)) {
			continue
		}
		for _, n := range names {
			for _, text := range []string{n, string([]byte{byte(c)}) + n, n + string([]byte{byte(c)}), "x" + string([]byte{byte(c)}) + n + string([]byte{byte(c)}) + "y"} {
				if !found(m, names, text)[n] {
					t.Errorf("%q is not found in %q", n, text)
				}
			}
		}
	}
	for _, before := range []string{`\n`, `\t`, `\r`, `\"`, `\\n`, `\\\\n`, `\u003d`, `\u0022`, `\x3d`, `%2F`, `%3d`, `%252F`, `\012`, `\U0000003d`, "“", "„", "\u2028", "é"} {
		if !found(m, names, "some text"+before+"web-tls"+before)["web-tls"] {
			t.Errorf("web-tls is not found behind %s", before)
		}
	}
}

func TestMatcherStops(t *testing.T) {
	n := 0
	NewMatcher([]string{"a"}).Find([]byte("a a a"), func(int, int) bool { n++; return n < 2 })
	if n != 2 {
		t.Errorf("called %d times after false, want none", n-2)
	}
}

func FuzzMatcher(f *testing.F) {
	f.Add("web-tls web tls", "a/web-tls")
	f.Add("web.example.com *.example.com", `{"x":"\nweb.example.com"}`)
	f.Add("a b a-b a-b-a", `a-b-a\u002fa%2Fb`)
	f.Add("n na", `\na \nna \\na`)
	f.Add("2F F u002f 002f", `%2F\u002f\x2F`)
	f.Fuzz(func(t *testing.T, names, text string) {
		if len(names)+len(text) > 4096 {
			return
		}
		checkMatcher(t, strings.Fields(names), text)
	})
}

// leaves collects what walk has to visit from what encoding/json decodes:
// strings and numbers, and keys.
func leaves(v any, values, keys map[string]int) {
	switch v := v.(type) {
	case string:
		values[v]++
	case json.Number:
		values[v.String()]++
	case []any:
		for _, x := range v {
			leaves(x, values, keys)
		}
	case map[string]any:
		for k, x := range v {
			keys[k]++
			leaves(x, values, keys)
		}
	}
}

func FuzzWalk(f *testing.F) {
	f.Add([]byte(`{"a":"b","c":["d",{"e":"f"}],"g":{},"h":{"i":[]},"j":null,"k":1.5e3,"l":true}`))
	f.Add([]byte(`{"a":"\ud800","b":"\u00e9\n","":""}`))
	f.Add([]byte(`{"a":1,"a":2}`))
	f.Add([]byte(`{"a":`))
	f.Add([]byte(`[]`))
	f.Add([]byte("{\"\xff\":\"\xfe\"}"))
	f.Add([]byte(`{}{}`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		values, keys := map[string]int{}, map[string]int{}
		parents := map[int]bool{}
		err := walk(doc, func(path []string, parent int, value string, isKey bool) {
			if len(path) == 0 {
				t.Fatal("a value without a path")
			}
			_ = fieldPath(path)
			switch {
			case isKey:
				keys[value]++
				parents[parent] = true
			case value == emptyObject:
			default:
				values[value]++
			}
		})
		dec := json.NewDecoder(bytes.NewReader(doc))
		dec.UseNumber()
		var want map[string]any
		if !json.Valid(doc) || dec.Decode(&want) != nil || want == nil {
			return
		}
		if err != nil {
			t.Fatalf("%q is a JSON object: %v", doc, err)
		}
		wantValues, wantKeys := map[string]int{}, map[string]int{}
		leaves(want, wantValues, wantKeys)
		delete(wantValues, emptyObject)
		// Keys that come twice are visited twice, and decoded once: nothing may
		// be missing, more may be there.
		for k, n := range wantKeys {
			if keys[k] < n {
				t.Errorf("%q: key %q visited %d times, want %d", doc, k, keys[k], n)
			}
		}
		for v, n := range wantValues {
			if values[v] < n {
				t.Errorf("%q: value %q visited %d times, want %d", doc, v, values[v], n)
			}
		}
	})
}

func TestWalkNumbersSiblingsAndEmptyObjects(t *testing.T) {
	var got []string
	err := walk([]byte(`{"a":{"x":"1","y":["2",{"z":"3"}]},"b":{},"c":{"matchLabels":null,"matchExpressions":[]},"d":7}`), func(path []string, parent int, value string, isKey bool) {
		if !isKey {
			got = append(got, fmt.Sprintf("%s@%d=%q", fieldPath(path), parent, value))
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{`a.x@2="1"`, `a.y[]@2="2"`, `a.y[].z@3="3"`, `b@1="\x00{}"`, `c@1="\x00{}"`, `d@1="7"`}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}
