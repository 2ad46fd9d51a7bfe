package node

import (
	"context"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"weak"

	"chorus/ledger"
	"chorus/model"
	"chorus/model/safetensors"
	"chorus/node/openai"
	"chorus/node/steward"

	"github.com/ipfs/go-cid"
)

// TestNothingHoldsAnExpertAfterItsRevocation has one answer wait for its reader and another node that only holds the
// expert, and looks for what is left: the expert itself, the sequence that knew it, and the mapping of its blob.
func TestNothingHoldsAnExpertAfterItsRevocation(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "alpha", "beta")
	c.up("alpha", "beta")
	offer, blob := c.publish("beta", 2)
	alpha := c.nodes["alpha"]
	path := alpha.Blobs().Path(blob)
	if runtime.GOOS == "linux" && !mapped(t, path) {
		t.Fatal("the test expects the blob to be mapped")
	}
	var expert weak.Pointer[model.Expert]
	var sequence weak.Pointer[model.Sequence]
	func() {
		expert = weak.Make(alpha.Mixture().Experts[0].loan.expert)
	}()
	emitted := 0
	_, err := alpha.Generate(t.Context(), openai.Request{Prompt: "the cat", MaxTokens: 3}, func(openai.Token) error {
		if emitted++; emitted > 1 {
			return nil
		}
		for a := range alpha.answers.Range {
			sequence = weak.Make(a.(*answer).sequence)
		}
		c.revoke("beta", offer)
		c.await("the end of the expert", gone(offer, blob), "alpha")
		// The answer has not gone on: what waits for its reader has let go all the same.
		if mapped(t, path) {
			t.Error("the blob is still mapped")
		}
		for range 5 {
			runtime.GC()
		}
		if sequence.Value() != nil {
			t.Error("a sequence that knew the expert is still held")
		}
		if expert.Value() != nil {
			t.Error("the expert is still held")
		}
		return nil
	})
	c.must(err)
	if emitted != 3 {
		t.Errorf("%d tokens", emitted)
	}
	if names, err := c.nodes["beta"].Host().Holders(t.Context(), blob); err != nil || len(names) > 0 {
		t.Errorf("%v say that they hold the blob, %v", names, err)
	}
	left, err := filepath.Glob(path + "*")
	c.must(err)
	if len(left) > 0 {
		t.Errorf("files are left: %v", left)
	}
}

// mapped reports whether a file, or what was one, is mapped into this process.
func mapped(t *testing.T, path string) bool {
	t.Helper()
	if runtime.GOOS != "linux" {
		return false
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(maps), path)
}

func TestAStepUnderWayEndsSafelyAndThenTheExpertGoes(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "alpha")
	c.up("alpha")
	offer, blob := c.publish("alpha", 2)
	n := c.nodes["alpha"]
	path := n.Blobs().Path(blob)
	m := n.begin() // as a step does
	if !m.stands(offer) {
		t.Fatal("the test expects the expert in the mixture")
	}
	c.revoke("alpha", offer)
	c.await("the end of the expert", gone(offer, blob))
	if n.Mixture().stands(offer) {
		t.Error("a new step would use it")
	}
	if runtime.GOOS == "linux" && !mapped(t, path) {
		t.Error("its memory went under a step")
	}
	continuation(n, m.computes, encode(n, "the cat"), 2) // faults, if it did
	m.end()
	if mapped(t, path) || m.begin() {
		t.Error("its memory outlived the last step")
	}
}

func TestEveryHolderLetsGoByItself(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "alpha")
	c.up("alpha")
	offer, _ := c.publish("alpha", 2)
	n := c.nodes["alpha"]
	a := n.Mixture().Experts[0]
	n.drop(a) // without the steward, which puts another mixture in use first
	if n.Mixture().stands(offer) || a.loan.expert != nil {
		t.Error("the list alone leaves the expert in use")
	}
	if r := c.answer(n, 2); len(r.Attribution) != 1 {
		t.Errorf("attribution %+v", r.Attribution)
	}
}

func TestAnExportIsShownWhenAnOwnerLeaves(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "alpha", "beta")
	c.up("alpha", "beta")
	offer, blob := c.publish("beta", 2)
	kept, _ := c.publish("alpha", 3)
	alpha := c.nodes["alpha"]
	folder := t.TempDir()
	c.must(alpha.RecordExport(t.Context(), Export{Folder: folder, Offers: []cid.Cid{offer}}))
	beta := c.nodes["beta"]
	c.poll("the owner's learning of it", func() bool { return exportedBy(c.status(beta, offer), "alpha") })
	id := c.revoke("beta", offer)
	if said, err := beta.Compliance(t.Context(), id); err != nil || len(said.Exported) != 1 || said.Exported[0].Member != "alpha" {
		t.Errorf("compliance %+v, %v: it lacks the export", said, err)
	}
	c.await("the end of the expert", gone(offer, blob), "alpha")
	if got := c.status(alpha, offer).Exports; !slices.Equal(got, []string{folder}) {
		t.Errorf("exports %v", got)
	}
	if got := c.status(alpha, kept).Exports; len(got) != 0 {
		t.Errorf("exports of what is in none: %v", got)
	}
	if c.events(alpha, ledger.EventExported, offer) != 1 {
		t.Error("the account lacks the export")
	}
	if err := alpha.RecordExport(t.Context(), Export{Folder: folder, Offers: []cid.Cid{offer}}); err == nil {
		t.Error("an export with a revoked expert was recorded as if it might be made")
	}
	c.must(os.RemoveAll(folder))
	if got := c.status(alpha, offer).Exports; len(got) != 0 {
		t.Errorf("a folder that was deleted is still shown: %v", got)
	}
	c.down("alpha", "beta")
	c.up("alpha")
	alpha = c.nodes["alpha"]
	if st := c.standing(alpha, kept); st.State != ledger.Active || alpha.Mixture().Why != steward.NotReconciled {
		t.Fatalf("the test expects a lease that goes on and a node that is not in step: %s, %q", st.State, alpha.Mixture().Why)
	}
	if err := alpha.RecordExport(t.Context(), Export{Folder: folder, Offers: []cid.Cid{kept}}); err == nil {
		t.Error("a node that may have missed a revocation had an export made")
	}
}

func exportedBy(e Expert, member string) bool {
	return slices.ContainsFunc(e.Exported, func(x ledger.Exported) bool { return x.Member == member })
}

// TestAnExportIsStatedOnceWhateverHappensMeanwhile has a node be killed after it noted an export, and before it signed that.
func TestAnExportIsStatedOnceWhateverHappensMeanwhile(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "alpha", "beta")
	c.up("alpha", "beta")
	offer, blob := c.publish("beta", 2)
	own, ownBlob := c.publish("alpha", 3)
	beta := c.nodes["beta"]
	c.must(c.nodes["alpha"].Ledger().Record(
		ledger.Event{Time: now(), Kind: ledger.EventExported, Expert: blob, Offer: offer, Detail: t.TempDir()},
		ledger.Event{Time: now(), Kind: ledger.EventExported, Expert: ownBlob, Offer: own, Detail: t.TempDir()},
	))
	c.down("alpha")
	if exportedBy(c.status(beta, offer), "alpha") {
		t.Fatal("the test expects that it was not said")
	}
	c.up("alpha")
	c.poll("the owner's learning of it", func() bool { return exportedBy(c.status(beta, offer), "alpha") })
	if got := c.status(beta, own).Exported; len(got) > 0 {
		t.Errorf("of its own expert it told %v", got)
	}
	heads := beta.Ledger().Heads()
	c.down("alpha")
	c.up("alpha")
	c.await("that it goes on", func(n *Node) bool { return n.mayPlace() && n.Mixture().stands(offer) }, "alpha")
	c.must(c.nodes["alpha"].stateExports(t.Context()))
	if after := c.nodes["alpha"].Ledger().Heads(); !slices.Equal(after, heads) {
		t.Errorf("it was said again: heads %v, before %v", after, heads)
	}
}

func TestWhoeverWaitsLearnsThatAnExpertIsNotInUseAnyMore(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "alpha", "beta")
	c.up("alpha", "beta")
	offer, _ := c.publish("beta", 2)
	other, _ := c.publish("beta", 3)
	alpha := c.nodes["alpha"]
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := alpha.AwaitEnd(ctx, []cid.Cid{offer, other}); !errors.Is(err, context.Canceled) {
		t.Errorf("while both are in use: %v", err)
	}
	told := make(chan Status)
	go func() {
		s, err := alpha.AwaitEnd(t.Context(), []cid.Cid{other, offer})
		if err != nil {
			t.Error(err)
		}
		told <- s
	}()
	c.revoke("beta", offer)
	s := <-told
	for _, e := range s.Experts {
		if e.InUse != (e.Offer == other) {
			t.Errorf("it was told %+v", e)
		}
	}
}

// holdsWeights are the types that can hold an expert's weights, or what was computed with them, of packages whose fields are no
// places of their own: whoever holds such a type holds it.
var holdsWeights = []string{"model.Expert", "model.Slot", "model.Mixture", "model.Sequence", "model.Batch", "model.Pass", "model.LayerPass",
	"model.FFN", "model.Projection", "model.Checkpoint", "kernels.Matrix", "kernels.Arena", "safetensors.File", "safetensors.Tensor",
	"steward.Expert", // which is any type at all
}

// keepsAnything are the types in which a variable can keep whatever was put there, and lists of numbers.
var keepsAnything = []string{"sync.Pool", "sync.Map", "atomic.Pointer", "atomic.Value", "list.List", "[]float32", "[]uint16", "[]int8", "[]byte", "[]any"}

// ofNoOffer are the places that hold nothing of an expert on offer, and what they hold.
var ofNoOffer = map[string]string{
	"main.auditor.expert":    "one that this member has trained and not published",
	"main.suspect.m":         "the anchor, alone or with that expert",
	"eval.recordingReader.f": "what another implementation computed, in a trial",
	"kernels.current":        "a weak reference to where the anchor is packed: each expert has an arena of its own",
	"notice.recent":          "notices that were verified lately",
	"p2p.dirData":            "a constant",
}

// everyFolder returns the folders of the packages that a node and the commands are made of.
func everyFolder(t *testing.T) (all []string) {
	t.Helper()
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil || !d.IsDir():
			return err
		case path != ".." && (strings.HasPrefix(d.Name(), ".") || slices.Contains([]string{"testdata", "trials", "simulation", "simnet", "internal", "spec"}, d.Name())):
			return fs.SkipDir
		}
		if files, err := filepath.Glob(filepath.Join(path, "*.go")); err != nil || len(files) == 0 {
			return err
		}
		all = append(all, path)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestEveryPlaceThatCanHoldWeightsIsOnTheList reads the source. Where a node keeps something, each field of a type whose type names
// one that holds weights, directly or through another type, must be named by a holder; and in every package each variable must
// that can keep such a thing, or numbers, or anything, from one call to the next.
func TestEveryPlaceThatCanHoldWeightsIsOnTheList(t *testing.T) {
	listed := make(map[string]bool)
	for _, h := range holders {
		if h.drop == nil && h.delete == nil && h.beyond == "" {
			t.Errorf("%s: nothing lets go of it", h.what)
		}
		for _, p := range h.places {
			listed[p] = true
		}
	}
	found, _ := weightPlaces(t, holdsWeights, ".", "steward", "openai", "invite", "../p2p", "../cmd/chorus", "../model/eval", "../model/eval/leak")
	_, kept := weightPlaces(t, slices.Concat(holdsWeights, keepsAnything), everyFolder(t)...)
	maps.Copy(found, kept)
	for place := range found {
		if _, other := ofNoOffer[place]; !listed[place] && !other {
			t.Errorf("%s can hold weights, and no holder names it", place)
		}
	}
	for place := range listed {
		// A field of an interface or of any type at all, such as a sync.Map, is on the list by hand.
		if !found[place] && place != "Node.answers" {
			t.Errorf("a holder names %s, which is not there or holds no weights", place)
		}
	}
	for place := range ofNoOffer {
		if !found[place] {
			t.Errorf("%s is said to hold nothing of an expert, and is not there or could not", place)
		}
	}
}

func TestWeightPlacesSeesWhatATypeHides(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a.go"), []byte(`package a
import "chorus/model"
type Outer struct { deep map[string]chan []*inner; name string; f func(*model.Mixture) }
type Expert struct { name string }
type inner struct { e *model.Expert }
type named []*model.Slot
type Third struct { named; inner }
var cache = map[string]*inner{}
var other named
var text string
var pool = [2]sync.Pool{}
var rows [][]float32
var steps = []func([]float32){}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	fields, variables := weightPlaces(t, slices.Concat(holdsWeights, keepsAnything), dir)
	for _, tt := range []struct {
		found map[string]bool
		want  []string
	}{
		{fields, []string{"Outer.deep", "Third.inner", "Third.named", "inner.e"}},
		{variables, []string{"cache", "other", "pool", "rows"}},
	} {
		if got := slices.Sorted(maps.Keys(tt.found)); !slices.Equal(got, tt.want) {
			t.Errorf("%v, expected %v", got, tt.want)
		}
	}
}

// weightPlaces returns the fields and the variables of the Go files in folders that can hold what types of these names do: directly,
// or through another type of the folders. A list of numbers is named as []float32, whatever holds it.
func weightPlaces(t *testing.T, names []string, folders ...string) (fields, variables map[string]bool) {
	t.Helper()
	type place struct {
		name, owner string
		mentions    []string
	}
	var places []place
	mentions := func(pkg string, nodes ...ast.Node) (names []string) {
		for _, n := range nodes {
			if n == nil || reflect.ValueOf(n).IsNil() {
				continue
			}
			ast.Inspect(n, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.SelectorExpr:
					if x, ok := n.X.(*ast.Ident); ok {
						names = append(names, x.Name+"."+n.Sel.Name)
					}
					return false
				case *ast.ArrayType:
					if x, ok := n.Elt.(*ast.Ident); ok {
						names = append(names, "[]"+x.Name)
					}
				case *ast.CallExpr:
					if _, conversion := n.Fun.(*ast.ArrayType); conversion {
						return false // a constant text as bytes
					}
				case *ast.BinaryExpr:
					return false // a constant
				case *ast.FuncLit, *ast.FuncType, *ast.InterfaceType, *ast.BasicLit:
					return false // what they hold is somebody's field or variable
				case *ast.Ident:
					names = append(names, pkg+"."+n.Name)
				}
				return true
			})
		}
		return names
	}
	for _, folder := range folders {
		entries, err := os.ReadDir(folder)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if filepath.Ext(e.Name()) != ".go" || strings.HasSuffix(e.Name(), "_test.go") {
				continue
			}
			file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(folder, e.Name()), nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			pkg := file.Name.Name
			prefix := ""
			if folder != folders[0] {
				prefix = pkg + "."
			}
			for _, decl := range file.Decls {
				d, ok := decl.(*ast.GenDecl)
				if !ok {
					continue
				}
				for _, spec := range d.Specs {
					switch s := spec.(type) {
					case *ast.ValueSpec:
						if d.Tok != token.VAR {
							continue
						}
						nodes := []ast.Node{s.Type}
						for _, v := range s.Values {
							if lit, ok := v.(*ast.CompositeLit); ok {
								nodes = append(nodes, lit.Type)
							} else {
								nodes = append(nodes, v)
							}
						}
						for _, name := range s.Names {
							if name.Name == "_" {
								continue
							}
							places = append(places, place{prefix + name.Name, "", mentions(pkg, nodes...)})
						}
					case *ast.TypeSpec:
						st, ok := s.Type.(*ast.StructType)
						if !ok {
							places = append(places, place{"", pkg + "." + s.Name.Name, mentions(pkg, s.Type)})
							continue
						}
						for _, f := range st.Fields.List {
							names, owner := mentions(pkg, f.Type), pkg+"."+s.Name.Name
							for _, n := range f.Names {
								places = append(places, place{prefix + s.Name.Name + "." + n.Name, owner, names})
							}
							if f.Names == nil {
								embedded := names[len(names)-1]
								places = append(places, place{prefix + s.Name.Name + embedded[strings.LastIndex(embedded, "."):], owner, names})
							}
						}
					}
				}
			}
		}
	}
	heavy := make(map[string]bool) // types that hold weights
	for _, name := range names {
		heavy[name] = true
	}
	fields, variables = make(map[string]bool), make(map[string]bool)
	for before := -1; before < len(heavy); {
		before = len(heavy)
		for _, p := range places {
			if !slices.ContainsFunc(p.mentions, func(m string) bool { return heavy[m] }) {
				continue
			}
			switch {
			case p.name != "" && p.owner != "":
				fields[p.name] = true
			case p.name != "":
				variables[p.name] = true
			}
			// Whoever has the node has no more than its own fields, which are found by themselves.
			if p.owner != "" && p.owner != "node.Node" {
				heavy[p.owner] = true
			}
		}
	}
	return fields, variables
}

// TestTheTypesThatHoldWeightsAreKnown walks what an expert is made of: a type of these packages that it reaches
// and that is not known to hold weights would let a place go unseen.
func TestTheTypesThatHoldWeightsAreKnown(t *testing.T) {
	known := make(map[string]bool)
	for _, name := range holdsWeights {
		known[name] = true
	}
	seen := make(map[reflect.Type]bool)
	var walk func(reflect.Type)
	walk = func(u reflect.Type) {
		if seen[u] {
			return
		}
		seen[u] = true
		switch u.Kind() {
		case reflect.Pointer, reflect.Slice, reflect.Array, reflect.Map, reflect.Chan:
			walk(u.Elem())
		case reflect.Struct:
			for i := range u.NumField() {
				walk(u.Field(i).Type)
			}
		}
		exported := u.Name() != "" && strings.ToUpper(u.Name()[:1]) == u.Name()[:1]
		pkg := u.PkgPath()
		if exported && u.Kind() == reflect.Struct && strings.HasPrefix(pkg, "chorus/") && !known[u.String()] &&
			!slices.Contains([]string{"model.Anchor", "model.Layer", "model.Config"}, u.String()) {
			t.Errorf("%s is part of what an expert is made of", u)
		}
	}
	walk(reflect.TypeFor[model.Expert]())
	walk(reflect.TypeFor[safetensors.File]())
}
