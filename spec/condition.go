package spec

import (
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"weak"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/interpreter"
)

// Bounds of conditions.
const (
	MaxConditionBytes = 4 << 10 // one condition
	// MaxConditions and MaxConditionsBytes bound the conditions of an app, each
	// text counted once: compiling is the dearest part of reading a manifest.
	MaxConditions      = 1000
	MaxConditionsBytes = 64 << 10

	// MaxConditionCost bounds one evaluation, in the units of CEL: about one for
	// each name, field, call and step of a loop, and one for ten bytes of text or
	// elements compared.
	MaxConditionCost = 100_000
	// MaxConditionValueBytes bounds the object that object.value is read from.
	MaxConditionValueBytes = 64 << 10
	// MaxConditionValueDepth bounds the nesting of that object.
	MaxConditionValueDepth = 64

	maxConditionErrorBytes = 200
)

// Condition is the compiled when of a trigger, a CEL expression over one object.
// It depends on the object alone, so that it gives the same answer each time it
// is asked. It is immutable and safe for concurrent use; conditions of equal
// text are one, so that apps compare and share what is compiled.
type Condition struct {
	source     string
	program    cel.Program
	needsValue bool
}

// ConditionInput is the object that a condition is evaluated on.
type ConditionInput struct {
	Bucket      BucketName
	Session     SessionID
	Key         Key
	Size        int64
	ContentType string
	Meta        map[string]string
	// Value holds the object's bytes. It is looked at only if NeedsValue says so
	// and Size is at most MaxConditionValueBytes; otherwise it may be nil.
	Value []byte
}

// ConditionError says, in words for the app's author, why a condition has no
// answer for an object.
type ConditionError struct{ Message string }

func (e *ConditionError) Error() string { return e.Message }

// CompileCondition compiles a condition without a manifest. The error is an
// *Error of code invalid that tells the first fault with its line and column.
func CompileCondition(source string) (*Condition, error) {
	suggest := suggester{budget: suggestBudget}
	c, faults := compileCondition(source, &suggest)
	if len(faults) > 0 {
		at, message := lineAndColumn(source, faults[0].offset), faults[0].message
		return nil, Errorf(CodeInvalid, "bad condition: %d:%d: %s", at.line, at.column, message)
	}
	return c, nil
}

// Source returns the condition's text.
func (c *Condition) Source() string { return c.source }

// NeedsValue reports whether the condition looks at the object's bytes.
func (c *Condition) NeedsValue() bool { return c.needsValue }

// Eval reports whether the condition holds for in. The error, a *ConditionError,
// is the same each time for the same input.
func (c *Condition) Eval(in ConditionInput) (bool, error) {
	out, _, err := c.program.Eval(&conditionObject{in: in})
	if err != nil {
		return false, conditionError(err)
	}
	holds, ok := out.(types.Bool)
	if !ok {
		return false, &ConditionError{"the result is of type " + out.Type().TypeName() + ", not true or false"}
	}
	return bool(holds), nil
}

// MarshalText makes the condition its source in JSON.
func (c *Condition) MarshalText() ([]byte, error) { return []byte(c.source), nil }

// UnmarshalText compiles what MarshalText wrote.
func (c *Condition) UnmarshalText(text []byte) error {
	compiled, err := CompileCondition(string(text))
	if err == nil {
		*c = *compiled
	}
	return err
}

func conditionError(err error) error {
	var cancelled interpreter.EvalCancelledError
	message := err.Error()
	if errors.As(err, &cancelled) && cancelled.Cause == interpreter.CostLimitExceeded {
		message = fmt.Sprintf("it takes more than %d steps for this object", MaxConditionCost)
	}
	if name, ok := strings.CutPrefix(message, "no such overload: "); ok {
		message = inOurWords("found no matching overload for '" + name + "' applied to 'values of these types'")
	}
	if len(message) > maxConditionErrorBytes {
		message = strings.ToValidUTF8(message[:maxConditionErrorBytes], "") + "…"
	}
	return &ConditionError{message}
}

// conditionObject resolves the variables of one evaluation.
type conditionObject struct {
	in    ConditionInput
	value any // of object.value, once it was asked for
}

// ResolveName returns the variable, or an error of CEL that takes its place.
func (o *conditionObject) ResolveName(name string) (any, bool) {
	switch name {
	case "object.key":
		return types.String(o.in.Key), true
	case "object.size":
		return types.Int(o.in.Size), true
	case "object.content_type":
		return types.String(o.in.ContentType), true
	case "object.meta":
		return o.in.Meta, true
	case "object.bucket":
		return types.String(o.in.Bucket), true
	case "object.session":
		return types.String(o.in.Session), true
	case "object.value":
		if o.value == nil {
			o.value = o.readValue()
		}
		return o.value, true
	}
	return nil, false
}

func (o *conditionObject) Parent() cel.Activation { return nil }

// readValue reads the object as JSON. Numbers become doubles, as CEL converts
// JSON: whether a number happens to be whole must not change its type.
func (o *conditionObject) readValue() any {
	if size := max(o.in.Size, int64(len(o.in.Value))); size > MaxConditionValueBytes {
		return types.NewErr("object.value: the object has %d bytes, at most %s are read", size, FormatSize(MaxConditionValueBytes))
	}
	if tooDeepJSON(o.in.Value) {
		return types.NewErr("object.value: the JSON is nested more than %d deep", MaxConditionValueDepth)
	}
	var value any
	if err := json.Unmarshal(o.in.Value, &value); err != nil {
		return types.NewErr("object.value: not JSON: %v", err)
	}
	if value == nil {
		return types.NullValue
	}
	return value
}

// tooDeepJSON looks at the nesting alone and takes what is no JSON.
func tooDeepJSON(data []byte) bool {
	depth, quoted := 0, false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{', c == '[':
			if depth++; depth > MaxConditionValueDepth {
				return true
			}
		case c == '}', c == ']':
			depth--
		}
	}
	return false
}

// compiledConditions holds the conditions in use. An app is read again by each
// replica and for each version; what is not used any more is let go.
var compiledConditions struct {
	sync.Mutex
	bySource map[string]weak.Pointer[Condition]
}

func compiledBefore(source string) *Condition {
	compiledConditions.Lock()
	defer compiledConditions.Unlock()
	return compiledConditions.bySource[source].Value()
}

// remember returns the one condition with c's source: c, unless another one was
// compiled at the same time.
func remember(c *Condition) *Condition {
	compiledConditions.Lock()
	defer compiledConditions.Unlock()
	if first := compiledConditions.bySource[c.source].Value(); first != nil {
		return first
	}
	if compiledConditions.bySource == nil {
		compiledConditions.bySource = make(map[string]weak.Pointer[Condition])
	}
	compiledConditions.bySource[c.source] = weak.Make(c)
	runtime.AddCleanup(c, forget, c.source)
	return c
}

func forget(source string) {
	compiledConditions.Lock()
	defer compiledConditions.Unlock()
	if compiledConditions.bySource[source].Value() == nil {
		delete(compiledConditions.bySource, source)
	}
}
