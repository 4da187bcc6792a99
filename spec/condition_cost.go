package spec

import (
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"cel.dev/cel-go/interpreter"
)

// absurdConditionCost bounds what a condition could cost at worst and still be taken.
// It leaves room for two loops over values in each other: how large the values
// are is known at run time, where MaxConditionCost holds.
const absurdConditionCost = 1_000_000_000_000_000

// absurdCost estimates the cost of a condition for the largest object there can be.
func absurdCost(env *cel.Env, checked *cel.Ast) bool {
	estimate, err := env.EstimateCost(checked, largestObject{})
	return err == nil && estimate.Max > absurdConditionCost
}

type largestObject struct{}

func (largestObject) EstimateSize(element cost.AstNode) *cost.SizeEstimate {
	if element.ComputedSize() != nil {
		return nil
	}
	return &cost.SizeEstimate{Min: 0, Max: MaxConditionValueBytes}
}

func (largestObject) EstimateCallCost(_, _ string, _ *cost.AstNode, _ []cost.AstNode) *cost.CallEstimate {
	return nil
}

// conditionCost charges for what CEL counts as one step although it walks over a
// whole value: CEL takes some calls for cheap, and knows none on values whose type
// shows at run time only. Without it, a loop over a large value would take seconds
// within its limit.
type conditionCost struct{}

// zoneCost is the cost of a call that looks a time zone up.
const zoneCost = 500

func (conditionCost) CallCost(function, _ string, args []ref.Val, _ ref.Val) *uint64 {
	var total uint64
	switch function {
	case operators.Equals, operators.NotEquals:
		total = equalCost(args[0], args[1])
	case operators.In, operators.OldIn:
		total = containsCost(args[0], args[1])
	case operators.Add:
		// The macros map and filter append to a list of their own, in place.
		if _, own := args[0].(traits.MutableLister); own {
			return nil
		}
		total = listLength(args[0]) + listLength(args[1]) + textLength(args[0]) + textLength(args[1])
	case operators.Less, operators.LessEquals, operators.Greater, operators.GreaterEquals:
		total = min(textLength(args[0]), textLength(args[1])) / 10
	case "size", "int", "uint", "double", "bool", "string", "bytes", "duration", "timestamp":
		total = textLength(args[0]) / 10
	case "matches":
		// Every character may go through every instruction of the pattern.
		total = textLength(args[0])
	default:
		if len(args) != 2 || !strings.HasPrefix(function, "get") {
			return nil
		}
		total = zoneCost
	}
	total++
	return &total
}

// boundComparisons keeps a single comparison within the cost of an evaluation: a
// list may hold a large value ten thousand times, and cost is charged when a call
// is done.
func boundComparisons(checked *cel.Ast) cel.ProgramOption {
	plain := func(arg interpreter.InterpretableV2) bool {
		switch checked.NativeRep().GetType(arg.ID()).Kind() {
		case types.BoolKind, types.IntKind, types.UintKind, types.DoubleKind, types.StringKind:
			return true
		}
		return false
	}
	return cel.CustomDecoratorV2(func(i interpreter.InterpretableV2) (interpreter.InterpretableV2, error) {
		call, ok := i.(interpreter.InterpretableCall)
		if !ok {
			return i, nil
		}
		compare, known := comparisons[call.Function()]
		if args := call.Args(); !known || len(args) != 2 || plain(args[0]) && plain(args[1]) {
			return i, nil
		}
		return interpreter.NewCall(call.ID(), call.Function(), call.OverloadID(), call.Args(), func(args ...ref.Val) ref.Val {
			if !scalar(args[0]) && !scalar(args[1]) && compare.cost(args[0], args[1]) >= MaxConditionCost {
				panic(interpreter.EvalCancelledError{Cause: interpreter.CostLimitExceeded})
			}
			return compare.do(args[0], args[1])
		}), nil
	})
}

type comparison struct {
	do   func(a, b ref.Val) ref.Val
	cost func(a, b ref.Val) uint64
}

var comparisons = map[string]comparison{
	operators.Equals:    {types.Equal, equalCost},
	operators.NotEquals: {func(a, b ref.Val) ref.Val { return types.Bool(types.Equal(a, b) != types.True) }, equalCost},
	operators.In:        {contains, containsCost},
	operators.OldIn:     {contains, containsCost},
}

func equalCost(a, b ref.Val) uint64 {
	if scalar(a) || scalar(b) {
		return 0
	}
	return min(walked(a), walked(b))
}

func containsCost(item, container ref.Val) uint64 {
	if isLister(container) {
		return walked(container)
	}
	return textLength(item) / 10
}

func contains(item, container ref.Val) ref.Val {
	if c, ok := container.(traits.Container); ok {
		return c.Contains(item)
	}
	return types.MaybeNoSuchOverloadErr(container)
}

func scalar(v ref.Val) bool {
	switch v := v.(type) {
	case types.Bool, types.Int, types.Uint, types.Double, types.Null:
		return true
	case types.String:
		return len(v) <= 64
	}
	return false
}

func isLister(v ref.Val) bool {
	_, ok := v.(traits.Lister)
	return ok
}

func listLength(v ref.Val) uint64 {
	if l, ok := v.(traits.Lister); ok {
		if n, ok := l.Size().(types.Int); ok {
			return uint64(n)
		}
	}
	return 0
}

func textLength(v ref.Val) uint64 {
	switch v := v.(type) {
	case types.String:
		return uint64(len(v))
	case types.Bytes:
		return uint64(len(v))
	}
	return 0
}

// walked is the cost of walking over v. It looks no further once that is beyond
// what any evaluation may cost.
func walked(v ref.Val) uint64 {
	w := walker{left: MaxConditionCost}
	w.value(v)
	return MaxConditionCost - w.left
}

type walker struct{ left uint64 }

func (w *walker) value(v ref.Val) {
	w.left -= min(w.left, 1+textLength(v)/10)
	switch v := v.(type) {
	case traits.Mapper:
		for it := v.Iterator(); w.left > 0 && it.HasNext() == types.True; {
			key := it.Next()
			w.value(key)
			if item, ok := v.Find(key); ok {
				w.value(item)
			}
		}
	case traits.Lister:
		for it := v.Iterator(); w.left > 0 && it.HasNext() == types.True; {
			w.value(it.Next())
		}
	}
}
