// Package chorus_test holds the rules that concern the whole tree: which package may import which,
// and what every file and every package owes its reader.
package chorus_test

import (
	"bytes"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// A room is a package and what it may import of the project.
type room struct {
	name string   // the folder, below the root
	may  []string // folders, each further down the table; "*" is every row further down
	why  string
}

// rooms is the table of who may import whom. It reads down the page: no room imports one above it.
var rooms = []room{
	{"cmd/chorus", []string{"*"},
		"a command is a thin front: it may reach whatever it shows, and nothing reaches it"},
	{"cmd/trials", []string{"*"},
		"a trial may measure any part of chorus, and no part depends on being measured"},
	{"node", []string{"node/openai", "node/steward", "node/invite", "p2p", "ledger", "ledger/notice", "model", "model/chat", "model/safetensors", "model/tokenizer", "durable"},
		"a node joins network, ledger and model, which do not know each other; it never trains, and leaves arithmetic to the model"},
	{"node/simulation", []string{"node/steward", "p2p/simnet", "p2p", "ledger", "ledger/notice"},
		"a simulated node is made of the parts that decide about consent in a real one, and of nothing that takes a model or a machine"},
	{"node/steward", []string{"ledger", "ledger/notice"},
		"what a node uses follows from its ledger alone, and the loop that sees to it runs in a simulation without a model or a network"},
	{"node/invite", []string{"ledger/notice"},
		"what a guest and its host say to each other is read and tested without a network; who is admitted a charter says"},
	{"node/openai", nil,
		"the HTTP surface takes generation as an interface, so that it can be read and tested without a node"},
	{"p2p/simnet", []string{"p2p", "ledger", "ledger/notice"},
		"a network in memory carries the network's own engines; its tests give them real ledgers, as a node does"},
	{"p2p", []string{"ledger/notice", "durable"},
		"the network carries notices and blobs; it takes storage as an interface, and a blob's content is none of its business"},
	{"ledger", []string{"ledger/notice"},
		"who consents until when must be decidable from notices alone, offline"},
	{"ledger/notice", nil,
		"a signed document is checked by pure code: no clock, disk or network, and nothing of the project that could bring them in"},
	{"ledger/spec", nil,
		"a specification that used the code which it specifies would agree with whatever that does"},
	{"model/eval/leak", []string{"model", "kernels"},
		"what an expert gives away is counted from what a model computes; it knows no corpus, member or file, so that its numbers can be checked by themselves"},
	{"model/eval", []string{"model", "model/safetensors", "model/tokenizer", "kernels", "durable"},
		"a measurement may read every part of a model, and nothing that is measured depends on it"},
	{"model/train", []string{"model/train/privacy", "model", "model/safetensors", "model/tokenizer", "kernels", "durable"},
		"training builds on the forward pass; whoever only serves a model carries no optimiser"},
	{"model/train/privacy", nil,
		"an account of what is revealed must be checkable without the program that it is about"},
	{"model", []string{"model/safetensors", "model/tokenizer", "kernels", "durable"},
		"the architecture knows its file formats and its arithmetic, and no member, notice or peer"},
	{"model/chat", nil,
		"a file format of the ecosystem, of use to a reader who knows nothing of chorus"},
	{"model/safetensors", []string{"durable"},
		"a file format of the ecosystem, of use to a reader who knows nothing of chorus"},
	{"model/tokenizer", []string{"durable"},
		"a file format of the ecosystem, of use to a reader who knows nothing of chorus"},
	{"kernels", nil,
		"arithmetic over slices: it cannot know what the numbers mean"},
	{"kernels/internal/gen", nil,
		"a generator runs before the code that it writes exists"},
	{"kernels/internal/neon", nil,
		"a generator runs before the code that it writes exists"},
	{"durable", nil,
		"how a file is put in place concerns every room that keeps one, and is the same in all of them"},
	{"", nil,
		"the rules of the tree are read from its files, so that they hold for code that does not build"},
}

const module = "chorus"

func TestImportsGoDownTheRoomsOnly(t *testing.T) {
	at := make(map[string]int)
	for i, r := range rooms {
		at[r.name] = i
	}
	for i, r := range rooms {
		if r.why == "" {
			t.Errorf("the table: %q stands without a reason", r.name)
		}
		for _, to := range r.may {
			if j, ok := at[to]; to != "*" && (!ok || j <= i) {
				t.Errorf("the table: %s may import %s, which does not stand below it", r.name, to)
			}
		}
	}
	inhabited := make(map[string]bool)
	for _, file := range goFiles(t) {
		from := folder(file)
		i, ok := at[from]
		if !ok {
			t.Errorf("%s: %q is not in the table of rooms: add it, with what it may import and why", file, from)
			continue
		}
		inhabited[from] = true
		for _, spec := range parse(t, file, parser.ImportsOnly).Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if imported != module && !strings.HasPrefix(imported, module+"/") {
				continue
			}
			to := strings.TrimPrefix(strings.TrimPrefix(imported, module), "/")
			j, known := at[to]
			allowed := slices.Contains(rooms[i].may, to) || slices.Contains(rooms[i].may, "*") && known && j > i
			if to != from && !allowed {
				t.Errorf("%s imports %q, which %q may not: %s", file, imported, from, rooms[i].why)
			}
		}
	}
	for _, r := range rooms {
		if !inhabited[r.name] {
			t.Errorf("the table: %q has no Go file", r.name)
		}
	}
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	documented := make(map[string]bool)
	for _, file := range goFiles(t) {
		dir, f := folder(file), parse(t, file, parser.PackageClauseOnly|parser.ParseComments)
		begins := "Package " + f.Name.Name + " "
		if f.Name.Name == "main" {
			begins = "Command " + path.Base(dir) + " "
		}
		documented[dir] = documented[dir] || strings.HasPrefix(f.Doc.Text(), begins)
	}
	for dir, ok := range documented {
		if !ok {
			t.Errorf("%q has no comment that says what the package is: begin it with its name above a package clause", dir)
		}
	}
}

// A path on one machine means nothing to a reader on another, and tells more about that machine
// than anyone asked.
var localPath = regexp.MustCompile(`(^|[^\w.~-])/(work|tmp/s)/`)

func TestNoFileNamesAPathOfOneMachine(t *testing.T) {
	for _, file := range files(t) {
		b, err := os.ReadFile(filepath.FromSlash(file))
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted, and not committed yet
		}
		if err != nil {
			t.Fatal(err)
		}
		for i, line := range bytes.Split(b, []byte("\n")) {
			if found := localPath.Find(line); found != nil {
				t.Errorf("%s:%d names a path of one machine: %q", file, i+1, line[:min(len(line), 200)])
			}
		}
	}
}

// files returns the files of the repository, with slashes: those that git tracks or would, or in a
// copy without git those that are text.
func files(t *testing.T) []string {
	t.Helper()
	out, err := exec.Command("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").Output()
	listed := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
	if err == nil && slices.Contains(listed, "go.mod") {
		return listed
	}
	return slices.DeleteFunc(walk(t), func(file string) bool {
		b, err := os.ReadFile(filepath.FromSlash(file))
		if err != nil {
			t.Fatal(err)
		}
		return bytes.IndexByte(b, 0) >= 0
	})
}

// goFiles returns the Go files that are part of a package, whatever their build constraints.
func goFiles(t *testing.T) []string {
	t.Helper()
	out := slices.DeleteFunc(walk(t), func(file string) bool {
		return path.Ext(file) != ".go" || slices.Contains(strings.Split(file, "/"), "testdata")
	})
	if len(out) == 0 {
		t.Fatal("no Go file found")
	}
	return out
}

// walk returns the files below the root, with slashes, without those of version control.
func walk(t *testing.T) (out []string) {
	t.Helper()
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.Name() == ".git" && d.IsDir():
			return filepath.SkipDir
		case d.Name() != ".git" && d.Type().IsRegular():
			out = append(out, filepath.ToSlash(p))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// folder is the folder of a file, "" for the root.
func folder(file string) string {
	dir, _ := path.Split(file)
	return strings.TrimSuffix(dir, "/")
}

func parse(t *testing.T, file string, mode parser.Mode) *ast.File {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), filepath.FromSlash(file), nil, mode)
	if err != nil {
		t.Fatal(err)
	}
	return f
}
