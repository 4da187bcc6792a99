package spec

import (
	"fmt"
	"regexp/syntax"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/ext"
)

// conditionVariables are declared by their whole names: there is no value
// "object" that would have to be built for each evaluation.
var conditionVariables = []struct {
	field string
	kind  *cel.Type
}{
	{"key", cel.StringType},
	{"size", cel.IntType},
	{"content_type", cel.StringType},
	{"meta", cel.MapType(cel.StringType, cel.StringType)},
	{"bucket", cel.StringType},
	{"session", cel.StringType},
	{"value", cel.DynType},
}

// refusedFunctions come with CEL's strings. A single call of one can take time or
// memory by the product of its arguments before its cost is known.
var refusedFunctions = map[string]string{
	"replace":       "compare the parts instead, with split or substring",
	"join":          "compare the items instead, with exists or all",
	"format":        "compare the values instead of a text made of them",
	"indexOf":       "use contains, startsWith or split",
	"lastIndexOf":   "use contains, endsWith or split",
	"strings.quote": "compare the text itself",
}

const (
	maxConditionDepth  = 50
	maxConditionNodes  = 5000
	maxPatternProgram  = 100 // instructions of a regular expression
	maxConditionFaults = 8
)

// conditionEnv is made for the first condition: a node, client or function
// without any pays nothing for it.
var conditionEnv = sync.OnceValue(func() *cel.Env {
	options := []cel.EnvOption{
		cel.CrossTypeNumericComparisons(true),
		cel.DefaultUTCTimeZone(true),
		ext.Strings(ext.StringsVersion(5)),
		cel.ParserRecursionLimit(maxConditionDepth),
		cel.ParserExpressionSizeLimit(MaxConditionBytes),
		cel.ExpressionNodeLimit(maxConditionNodes),
		cel.RegexProgramSizeLimit(maxPatternProgram),
		cel.ASTValidators(cel.ValidateRegexLiterals(), cel.ValidateDurationLiterals(), cel.ValidateTimestampLiterals()),
	}
	for _, v := range conditionVariables {
		options = append(options, cel.Variable("object."+v.field, v.kind))
	}
	env, err := cel.NewEnv(options...)
	if err != nil {
		panic("spec: conditions have no language: " + err.Error())
	}
	return env
})

// conditionFault is one thing wrong with a condition, at a character of its text
// counted from 0.
type conditionFault struct {
	offset  int
	message string
}

// compileCondition returns the condition that source makes, or its faults.
func compileCondition(source string, suggest *suggester) (c *Condition, faults []conditionFault) {
	source = strings.TrimSpace(source)
	switch {
	case source == "":
		return nil, []conditionFault{{0, "an empty condition: write an expression that is true or false, such as object.size < 1000"}}
	case len(source) > MaxConditionBytes:
		return nil, []conditionFault{{0, fmt.Sprintf("a condition has at most %d bytes, this one %d", MaxConditionBytes, len(source))}}
	}
	if c := compiledBefore(source); c != nil {
		return c, nil
	}
	defer func() {
		// The parser and the checker walk text from outside; a condition must never
		// take a node down.
		if p := recover(); p != nil {
			c, faults = nil, []conditionFault{{0, fmt.Sprintf("not a condition that can be read: %v", p)}}
		}
	}()
	cc := conditionCompiler{source: source, suggest: suggest}
	return cc.compile()
}

type conditionCompiler struct {
	source     string
	suggest    *suggester
	faults     []conditionFault
	info       *ast.SourceInfo
	needsValue bool
}

func (cc *conditionCompiler) compile() (*Condition, []conditionFault) {
	env := conditionEnv()
	parsed, issues := env.Parse(cc.source)
	if errs := issues.Errors(); len(errs) > 0 {
		cc.issues(errs[:1]) // the rest follows from the first
		return nil, cc.faults
	}
	cc.info = parsed.NativeRep().SourceInfo()
	cc.walk(parsed.NativeRep().Expr())
	if len(cc.faults) > 0 {
		return nil, cc.faults
	}
	checked, issues := env.Check(parsed)
	if errs := issues.Errors(); len(errs) > 0 {
		cc.issues(errs)
		return nil, cc.faults
	}
	if t := checked.OutputType(); !t.IsExactType(cel.BoolType) && t.Kind() != types.DynKind {
		cc.fault(0, "must be true or false, this is of type %s", t)
		return nil, cc.faults
	}
	if absurdCost(env, checked) {
		cc.fault(0, "it could take far too long for one object: put at most two loops over object.value into each other")
		return nil, cc.faults
	}
	program, err := env.Program(checked, cel.EvalOptions(cel.OptOptimize),
		cel.CostLimit(MaxConditionCost), cel.CostTracking(conditionCost{}), boundComparisons(checked))
	if err != nil {
		cc.fault(0, "%s", clip(err.Error()))
		return nil, cc.faults
	}
	return remember(&Condition{source: cc.source, program: program, needsValue: cc.needsValue}), nil
}

// walk finds what the checker would tell in words that no user knows, and what a
// condition may not use.
func (cc *conditionCompiler) walk(root ast.Expr) {
	told := make(map[int64]bool) // names that belong to a field
	ast.PreOrderVisit(root, ast.NewExprVisitor(func(e ast.Expr) {
		switch e.Kind() {
		case ast.SelectKind:
			if s := e.AsSelect(); isObject(s.Operand()) {
				told[s.Operand().ID()] = true
				cc.field(e.ID(), s)
			}
		case ast.IdentKind:
			if isObject(e) && !told[e.ID()] {
				cc.fault(cc.offset(e.ID()), "object is no value by itself: use one of its fields, %s", oneOf(conditionFields("object.")))
			}
		case ast.CallKind:
			cc.call(e.ID(), e.AsCall())
		}
	}))
}

func isObject(e ast.Expr) bool {
	return e.Kind() == ast.IdentKind && strings.TrimPrefix(e.AsIdent(), ".") == "object"
}

func (cc *conditionCompiler) field(id int64, s ast.SelectExpr) {
	name, at := s.FieldName(), cc.offset(id)+1 // behind the dot
	switch {
	case !slices.Contains(conditionFields(""), name):
		hint := cc.suggest.didYouMean(name, conditionFields(""))
		if hint == "" {
			hint = ": the fields of object are " + andAll(conditionFields(""))
		}
		cc.fault(at, "unknown field %q%s", clip(name), hint)
	case s.IsTestOnly():
		cc.fault(cc.offset(s.Operand().ID()), "has(object.%s) is always true: ask for a field in it, such as has(object.meta.region)", name)
	case name == "value":
		cc.needsValue = true
	}
}

func (cc *conditionCompiler) call(id int64, c ast.CallExpr) {
	name := c.FunctionName()
	if c.IsMemberFunction() && c.Target().Kind() == ast.IdentKind && c.Target().AsIdent() == "strings" {
		name = "strings." + name
	}
	if instead, ok := refusedFunctions[name]; ok {
		cc.fault(cc.startOf(name, cc.offset(id)), "%s can't be used in a condition: %s", name, instead)
		return
	}
	if args := c.Args(); name == "matches" && len(args) > 0 {
		cc.pattern(args[len(args)-1])
	}
}

// pattern takes a pattern that is compiled once, with the condition.
func (cc *conditionCompiler) pattern(e ast.Expr) {
	if e.Kind() != ast.LiteralKind {
		cc.fault(cc.offset(e.ID()), "matches takes its pattern as text in quotes, not as a value that is known only later")
		return
	}
	if pattern, ok := e.AsLiteral().Value().(string); ok {
		if _, err := syntax.Parse(pattern, syntax.Perl); err != nil {
			cc.fault(cc.offset(e.ID()), "bad pattern: %s", clip(strings.TrimPrefix(err.Error(), "error parsing regexp: ")))
		}
	}
}

func conditionFields(prefix string) []string {
	var names []string
	for _, v := range conditionVariables {
		names = append(names, prefix+v.field)
	}
	return names
}

func (cc *conditionCompiler) fault(offset int, format string, args ...any) {
	if len(cc.faults) < maxConditionFaults {
		cc.faults = append(cc.faults, conditionFault{offset, fmt.Sprintf(format, args...)})
	}
}

func (cc *conditionCompiler) offset(id int64) int {
	return offsetOf(cc.source, cc.info.GetStartLocation(id))
}

// startOf returns where name starts if it ends at offset: CEL places a call at
// its parenthesis and a field at its dot.
func (cc *conditionCompiler) startOf(name string, offset int) int {
	before := string([]rune(cc.source)[:offset])
	for ; name != ""; name = name[:max(strings.LastIndexByte(name, '.'), 0)] {
		if strings.HasSuffix(before, name) {
			return offset - utf8.RuneCountInString(name)
		}
	}
	return offset
}

func (cc *conditionCompiler) issues(errs []*cel.Error) {
	for _, err := range errs {
		offset := offsetOf(cc.source, err.Location)
		if name, ok := between(err.Message, "undeclared reference to '", "'"); ok {
			cc.unknown(name, cc.startOf(name, offset))
			continue
		}
		cc.fault(offset, "%s", inOurWords(err.Message))
	}
}

func (cc *conditionCompiler) unknown(name string, offset int) {
	first, _, _ := strings.Cut(name, ".")
	hint := cc.suggest.didYouMean(first, conditionFunctions())
	if hint == "" {
		hint = ": a condition can look at the fields of object; text stands in quotes"
	}
	cc.fault(offset, "unknown name %q%s", clip(first), hint)
}

// inOurWords makes a message of CEL one that an author of manifests can read.
func inOurWords(message string) string {
	if name, ok := between(message, "found no matching overload for '", "'"); ok {
		if sign, isOperator := operators.FindReverse(name); isOperator && sign != "" {
			name = sign
		}
		applied, _ := between(message, "' applied to '", "'")
		return fmt.Sprintf("%s can't be applied to %s", clip(name), clip(applied))
	}
	if problem, ok := strings.CutPrefix(message, "Syntax error: "); ok {
		if before, _, long := strings.Cut(problem, " expecting "); long {
			problem = before
		}
		if strings.Contains(problem, "<EOF>") {
			problem = "the expression ends in the middle"
		}
		problem = strings.ReplaceAll(problem, "token recognition error at: ", "nothing that can stand here: ")
		return "not a condition: " + clip(strings.Join(strings.Fields(problem), " "))
	}
	if strings.Contains(message, "recursion") {
		return fmt.Sprintf("nested more than %d deep", maxConditionDepth)
	}
	return clip(strings.Join(strings.Fields(message), " "))
}

// location is a place in a condition, its lines from 1 and its columns from 0.
type location interface {
	Line() int
	Column() int
}

// conditionFunctions are what a mistyped name may have meant.
var conditionFunctions = sync.OnceValue(func() []string {
	names := []string{"object", "has", "all", "exists", "exists_one", "filter", "map"}
	for name := range conditionEnv().Functions() {
		if _, refused := refusedFunctions[name]; !refused && isName(strings.ToLower(name)) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
})

func between(s, before, after string) (string, bool) {
	_, rest, ok := strings.Cut(s, before)
	if !ok {
		return "", false
	}
	found, _, ok := strings.Cut(rest, after)
	return found, ok
}

// offsetOf turns a location into a number of characters. A location that is none
// is the start.
func offsetOf(source string, at location) int {
	offset := 0
	for line := 1; line < at.Line(); line++ {
		before, rest, more := strings.Cut(source, "\n")
		if !more {
			break
		}
		offset, source = offset+utf8.RuneCountInString(before)+1, rest
	}
	return offset + min(max(at.Column(), 0), utf8.RuneCountInString(source))
}

// lineAndColumn turns a number of characters into a place, both from 1.
func lineAndColumn(source string, offset int) place {
	at := place{1, 1}
	for _, c := range source {
		if offset--; offset < 0 {
			break
		}
		if c == '\n' {
			at = place{at.line + 1, 0}
		}
		at.column++
	}
	return at
}
