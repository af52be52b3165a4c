package dump

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/text/encoding/unicode"
	"golang.org/x/text/transform"
)

// Limits of what is read. They are far above what a cluster's dump has, and
// below what stops a machine.
var (
	// maxDocument is the longest object or unsplittable document, in bytes. An
	// object in etcd has at most 1.5 MiB by default (etcd --max-request-bytes).
	maxDocument = 32 << 20
	// maxArchived is how much may come out of compressed files and archives, in
	// bytes.
	maxArchived = int64(16 << 30)
	// maxMembers is how many members all archives may have.
	maxMembers = 2_000_000
	// maxProblems is how many Problems are kept.
	maxProblems = 1000
)

// maxNesting is how deep archives may stand in archives.
const maxNesting = 3

// path reads what a person named: a file, a directory or "-".
func (r *reader) path(p string) error {
	if p == "-" {
		if r.o.Stdin == nil {
			return errors.New("nothing to read from standard input")
		}
		r.stream("stdin", r.o.Stdin, 0)
		return nil
	}
	info, err := os.Stat(p)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		r.file(p)
		return nil
	}
	passed := passedOver{}
	err = filepath.WalkDir(p, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			r.broken(name, 0, anyKind, err.Error())
			return nil
		}
		if d.IsDir() {
			return nil
		}
		if !readable(name) {
			passed.add(name)
			return nil
		}
		// A link may lead to a file; a pipe or a device in a directory is
		// nobody's dump, and could block.
		if info, err := os.Stat(name); err != nil {
			r.broken(name, 0, anyKind, err.Error())
			return nil
		} else if !info.Mode().IsRegular() {
			passed.add(name)
			return nil
		}
		r.file(name)
		return nil
	})
	passed.tell(r, p)
	return err
}

// passedOver counts files whose names say that they are no YAML or JSON.
type passedOver struct {
	count int
	first string
}

func (p *passedOver) add(name string) {
	if p.count == 0 {
		p.first = name
	}
	p.count++
}

func (p *passedOver) tell(r *reader, file string) {
	switch {
	case p.count == 1:
		r.note(file, 0, fmt.Sprintf("passed over 1 file that is no YAML, JSON or archive by its name: %s", p.first))
	case p.count > 1:
		r.note(file, 0, fmt.Sprintf("passed over %d files that are no YAML, JSON or archive by their names, the first is %s", p.count, p.first))
	}
}

// readable reports whether a file found in a directory or an archive may hold
// objects, by its name.
func readable(name string) bool {
	name = strings.ToLower(path.Base(filepath.ToSlash(name)))
	if strings.HasSuffix(name, ".tgz") || strings.HasSuffix(name, ".tar") || strings.HasSuffix(name, ".tar.gz") {
		return true
	}
	switch path.Ext(strings.TrimSuffix(name, ".gz")) {
	case ".yaml", ".yml", ".json", ".jsonl", ".ndjson":
		return true
	}
	return false
}

func (r *reader) file(name string) {
	f, err := os.Open(name)
	if err != nil {
		r.broken(name, 0, anyKind, err.Error())
		return
	}
	defer f.Close()
	r.stream(name, f, 0)
}

// stream reads one file by what it holds, whatever its name is.
func (r *reader) stream(name string, src io.Reader, depth int) {
	if depth > maxNesting {
		r.broken(name, 0, anyKind, fmt.Sprintf("archives stand in archives more than %d deep; unpack them first", maxNesting))
		return
	}
	in := bufio.NewReaderSize(src, 64<<10)
	head, _ := in.Peek(512)
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(in)
		if err != nil {
			r.broken(name, 0, anyKind, "read gzip: "+err.Error())
			return
		}
		r.stream(name, &limited{r: r, src: z}, depth+1)
	case len(head) >= 262 && string(head[257:262]) == "ustar":
		r.archive(name, in, depth)
	case bytes.HasPrefix(head, []byte("PK\x03\x04")), bytes.HasPrefix(head, []byte("BZh")), bytes.HasPrefix(head, []byte("\xfd7zXZ")), bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		r.broken(name, 0, anyKind, "only gzip and tar are read; unpack it and give the directory")
	default:
		// PowerShell's > writes UTF-16 with a byte order mark. Bytes that are
		// no UTF-8 become U+FFFD, which no name has.
		text := transform.NewReader(in, unicode.BOMOverride(unicode.UTF8.NewDecoder()))
		s := &splitter{r: r, file: r.str(name), in: &input{r: text, line: 1}}
		s.run()
	}
}

func (r *reader) archive(name string, src io.Reader, depth int) {
	t := tar.NewReader(src)
	passed := passedOver{}
	defer passed.tell(r, name)
	for {
		h, err := t.Next()
		if err == io.EOF {
			return
		}
		if err != nil {
			r.broken(name, 0, anyKind, "read tar: "+err.Error()+"; the rest of the archive is missing")
			return
		}
		if r.members++; r.members > maxMembers {
			r.broken(name, 0, anyKind, fmt.Sprintf("archives have more than %d members; unpack what matters and give the directory", maxMembers))
			return
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		member := name + "!" + h.Name
		if !readable(h.Name) {
			passed.add(member)
			continue
		}
		r.stream(member, t, depth+1)
	}
}

// limited counts what comes out of compression, for all files together, and
// stops where nobody would call it a dump any more.
type limited struct {
	r   *reader
	src io.Reader
}

func (l *limited) Read(p []byte) (int, error) {
	if l.r.archived >= maxArchived {
		return 0, fmt.Errorf("%w: more than %d MiB come out of compressed files; unpack what matters and give the directory", errLimit, maxArchived>>20)
	}
	n, err := l.src.Read(p)
	l.r.archived += int64(n)
	return n, err
}
