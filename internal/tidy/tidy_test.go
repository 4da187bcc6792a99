package tidy

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/pheromone-run/pheromone/"

// allowed lists, for each package of the house, what of ours it may import. A
// folder stands for everything below it. What is not listed here is free: cmd and
// internal wire things together, examples and bench use them.
var allowed = map[string][]string{
	"spec":               {},
	"spec/wire":          {"spec"},
	"triggers":           {"spec"},
	"store/bytelog":      {},
	"store":              {"spec", "store/bytelog"},
	"raft/shard":         {"spec", "store", "internal/failpoint"},
	"raft/control":       {"spec", "store"},
	"client":             {"spec", "client"},
	"exec":               {"spec", "exec", "client/fn", "client/python"},
	"leader":             {"spec", "triggers", "store", "raft/shard", "exec", "internal/failpoint"},
	"api":                {"spec"},
	"node":               {"spec", "triggers", "store", "raft", "exec", "leader", "api", "client/python", "node/peer", "node/form", "node/blobs", "node/conductor", "internal/watchdog"},
	"node/peer":          {"spec"},
	"node/blobs":         {"spec", "store", "node/peer"},
	"node/form":          {"spec", "store", "raft/control", "node/peer"},
	"node/conductor":     {"spec", "raft/control", "raft/shard", "node/peer"},
	"internal/cli":       {"spec", "client", "internal/failpoint"},
	"cmd/pheromone":      {"internal/cli", "node", "exec/wasm"},
	"bench":              {"bench", "spec", "triggers", "store", "raft/shard", "exec", "client", "node"},
	"bench/report":       {},
	"bench/work":         {"client/fn"},
	"bench/peers":        {}, // a module of its own
	"examples":           {"client", "internal/nodetest"},
	"internal/crash":     {"spec", "client", "internal/nodetest"},
	"internal/failpoint": {"spec"},
	"internal/watchdog":  {},

	// A program that embeds a node, as somebody outside writes it.
	"examples/custom-primitive": {"spec", "triggers", "exec/inproc", "client", "node", "examples/custom-primitive"},
}

// Ratchets: they only ever go down.
const (
	maxFileLines     = 500
	maxFunctionLines = 110
)

type file struct {
	path  string // from the top of the checkout
	test  bool
	text  string
	fset  *token.FileSet
	tree  *ast.File
	lines int
}

func goFiles(t *testing.T) []file {
	t.Helper()
	var files []file
	walk(t, func(path string) {
		if !strings.HasSuffix(path, ".go") {
			return
		}
		text, err := os.ReadFile(filepath.Join(top, path))
		if err != nil {
			t.Fatal(err)
		}
		fset := token.NewFileSet()
		tree, err := parser.ParseFile(fset, path, text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		files = append(files, file{path, strings.HasSuffix(path, "_test.go"), string(text), fset, tree, strings.Count(string(text), "\n")})
	})
	if len(files) < 100 {
		t.Fatalf("found %d Go files: the walk is wrong", len(files))
	}
	return files
}

const top = "../.."

func walk(t *testing.T, visit func(path string)) {
	t.Helper()
	err := fs.WalkDir(os.DirFS(top), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (path == ".git" || path == "bin" || path == "tools" || d.Name() == "testdata" || d.Name() == "templates" || d.Name() == "__pycache__") {
			return fs.SkipDir
		}
		if !d.IsDir() {
			visit(path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestImportsPointDownTheHouse(t *testing.T) {
	for _, f := range goFiles(t) {
		if f.test {
			continue
		}
		dir := filepath.Dir(f.path)
		rule := ruleOf(dir)
		if rule == "" {
			continue
		}
		for _, imp := range f.tree.Imports {
			path, err := strconv.Unquote(imp.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			ours, ok := strings.CutPrefix(path, module)
			if ok && ours != dir && !within(ours, allowed[rule]) {
				t.Errorf("%s imports %s: %s may import %v", f.path, ours, rule, allowed[rule])
			}
		}
	}
}

// ruleOf finds the rule for the nearest folder above dir that has one.
func ruleOf(dir string) string {
	for ; dir != "."; dir = filepath.Dir(dir) {
		if _, ok := allowed[dir]; ok {
			return dir
		}
	}
	return ""
}

func within(path string, folders []string) bool {
	return slices.ContainsFunc(folders, func(f string) bool { return path == f || strings.HasPrefix(path, f+"/") })
}

func TestDragonboatStaysBehindRaftShard(t *testing.T) {
	for _, f := range goFiles(t) {
		for _, imp := range f.tree.Imports {
			if strings.Contains(imp.Path.Value, "lni/dragonboat") && filepath.Dir(f.path) != "raft/shard" {
				t.Errorf("%s imports %s: only raft/shard knows it", f.path, imp.Path.Value)
			}
		}
	}
}

func TestFilesAndFunctionsStayReadable(t *testing.T) {
	for _, f := range goFiles(t) {
		if f.lines > maxFileLines {
			t.Errorf("%s has %d lines, more than %d: it has more than one job", f.path, f.lines, maxFileLines)
		}
		for _, d := range f.tree.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || f.test {
				continue
			}
			if lines := f.fset.Position(fn.End()).Line - f.fset.Position(fn.Pos()).Line; lines > maxFunctionLines {
				t.Errorf("%s: %s has %d lines, more than %d", f.path, fn.Name.Name, lines, maxFunctionLines)
			}
		}
	}
}

func TestEveryPackageTellsItsStory(t *testing.T) {
	stories := map[string]bool{}
	for _, f := range goFiles(t) {
		dir := filepath.Dir(f.path)
		if !f.test {
			stories[dir] = stories[dir] || f.tree.Doc != nil && len(f.tree.Doc.Text()) > 60
		}
	}
	for dir, told := range stories {
		if !told {
			t.Errorf("package %s has no comment that says what it is for", dir)
		}
	}
}

// A wait for a condition looks again after a while (time.After, a ticker); a bare
// sleep hopes.
func TestTestsDoNotSleepOrSkip(t *testing.T) {
	for _, f := range goFiles(t) {
		if !f.test || strings.HasPrefix(f.path, "internal/tidy/") {
			continue
		}
		ast.Inspect(f.tree, func(n ast.Node) bool {
			call, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			x, ok := call.X.(*ast.Ident)
			if !ok {
				return true
			}
			name := x.Name + "." + call.Sel.Name
			if name == "time.Sleep" && !sleepsOnPurpose(f, call) || slices.Contains([]string{"t.Skip", "t.Skipf", "t.SkipNow", "b.Skip", "testing.Short"}, name) {
				t.Errorf("%s: %s", f.fset.Position(call.Pos()), name)
			}
			return true
		})
	}
}

// sleepsOnPurpose: a comment on the line says that the time that passes is what
// is tested or what the code under test does.
func sleepsOnPurpose(f file, at ast.Node) bool {
	line := f.fset.Position(at.Pos()).Line
	lines := strings.Split(f.text, "\n")
	return strings.Contains(lines[line-1], "// the test's subject")
}

// The project speaks of the project alone.
var strangers = regexp.MustCompile(`(?i)\b(issue #?\d|this session of work|claude|chatgpt|copilot|proxy\.golang\.org|registry\.npmjs|/work/(main|shared)|TODO|FIXME|XXX)\b`)

func TestTheProjectSpeaksOfTheProjectAlone(t *testing.T) {
	walk(t, func(path string) {
		switch filepath.Ext(path) {
		case ".go", ".py", ".md", ".yaml", ".yml", ".json", ".txt", "":
		default:
			return
		}
		if strings.HasPrefix(path, "internal/tidy/") || path == "go.sum" || path == "LICENSE" || strings.HasPrefix(path, ".git") {
			return
		}
		text, err := os.ReadFile(filepath.Join(top, path))
		if err != nil {
			t.Fatal(err)
		}
		for i, line := range strings.Split(string(text), "\n") {
			if found := strangers.FindString(line); found != "" {
				t.Errorf("%s:%d: %q", path, i+1, found)
			}
		}
	})
}
