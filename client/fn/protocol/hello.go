package protocol

// ProcessHello is the JSON of the first frame that an executor sends.
type ProcessHello struct {
	// Versions of the protocol that the executor speaks, any order.
	Versions []int `json:"versions"`
	// SDK names the SDK and its version, for status and logs.
	SDK string `json:"sdk"`
	// Functions that the program registered. INVOKE names one by its index here.
	Functions []string `json:"functions"`
	// Concurrency is how many attempts may run at once; at least 1.
	Concurrency int `json:"concurrency"`
	// Parallel is how many attempts run well at once. When every process has that
	// many and more wait, the node starts another process. 0 means Concurrency.
	Parallel int `json:"parallel,omitempty"`
	// Memory says that the executor has mapped InputFD and OutputFD, and takes and
	// sends objects that are there.
	Memory bool `json:"memory,omitempty"`
	// Forks says that the process runs no attempts and forks executors instead. It
	// was asked to by ForkVariable.
	Forks bool `json:"forks,omitempty"`
	// NoFork says why a process that was asked to does not fork executors.
	NoFork string `json:"no_fork,omitempty"`
}

// ForkRequest is the JSON of a FORK frame of the node. The descriptors come along
// with its first byte.
type ForkRequest struct {
	Env         map[string]string `json:"env"`         // what differs from the parent's; what is empty is taken out
	Descriptors []int             `json:"descriptors"` // the numbers that those which come along get
}

// NodeHello is the JSON of the node's answer.
type NodeHello struct {
	Version        int    `json:"version"`
	App            string `json:"app"`
	Executor       string `json:"executor"` // name of the process, as in status and history
	MaxObjectBytes int64  `json:"max_object_bytes"`
	MaxBodyBytes   uint32 `json:"max_body_bytes"`
	// InputMemory and OutputMemory are the sizes of what is behind InputFD and
	// OutputFD; 0 if objects are to travel inline.
	InputMemory  int64 `json:"input_memory,omitempty"`
	OutputMemory int64 `json:"output_memory,omitempty"`
}

// Failure is the JSON of an ERROR frame and of a GET_REPLY without an object.
type Failure struct {
	Kind    string `json:"kind"` // failed, permanent, refused; of a GET_REPLY an error code
	Message string `json:"message"`
	Detail  string `json:"detail,omitempty"`
}

// Reason is the JSON of a GOODBYE frame.
type Reason struct {
	Reason string `json:"reason"`
}
