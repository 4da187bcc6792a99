package leader

import (
	"encoding/json"
	"fmt"

	"github.com/pheromone-run/pheromone/internal/failpoint"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

// deadLetter is the object that a function's failure becomes.
type deadLetter struct {
	Function   spec.FunctionName `json:"function"`
	Invocation string            `json:"invocation"`
	Kind       string            `json:"kind"`
	Message    string            `json:"message"`
	Detail     string            `json:"detail,omitempty"`
	Attempts   uint32            `json:"attempts"`
	Inputs     []deadLetterInput `json:"inputs"`
}

type deadLetterInput struct {
	Bucket  spec.BucketName `json:"bucket"`
	Key     spec.Key        `json:"key"`
	Session spec.SessionID  `json:"session"`
}

// deadLetterInputs bounds the inputs that a dead letter lists.
const deadLetterInputs = 100

func (t *tx) putDeadLetter(inv *invocation, bucket spec.BucketName, f *store.Failure) {
	s := inv.session
	t.steps.Pass(failpoint.DeadLettered, s.name.app)
	letter := deadLetter{
		Function: f.Function, Invocation: inv.id().String(), Kind: f.Kind,
		Message: f.Message, Detail: f.Detail, Attempts: f.Attempts, Inputs: []deadLetterInput{},
	}
	for _, in := range inv.rec.Inputs[:min(len(inv.rec.Inputs), deadLetterInputs)] {
		session := s.name.session
		if in.Held {
			session = in.Source
		}
		letter.Inputs = append(letter.Inputs, deadLetterInput{in.Bucket, in.Key, session})
	}
	body, err := json.Marshal(letter)
	if err != nil {
		t.broken(fmt.Errorf("encode dead letter: %w", err))
		return
	}
	o := &incoming{
		bucket:      bucket,
		key:         spec.Key(fmt.Sprintf("%s-%d", inv.rec.Function, inv.number)),
		payload:     &payload{inline: body, size: int64(len(body))},
		contentType: "application/json",
		producer:    inv.number,
		repeats:     true,
	}
	defer t.causedBy(inv)()
	if existing, err := t.place(s, o); err == nil && existing == nil {
		t.store(s, o)
	}
}
