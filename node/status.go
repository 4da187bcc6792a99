package node

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pheromone-run/pheromone/exec/process"
	"github.com/pheromone-run/pheromone/spec"
)

// shardsNamed bounds how many shards an error names.
const shardsNamed = 16

// Ready implements api.Status.
func (n *Node) Ready() error {
	if err := n.gate(); err != nil {
		return err
	}
	if err := n.diskErr(); err != nil {
		return err
	}
	if !n.ready.Load() {
		return spec.Errorf(spec.CodeUnavailable, "the node is starting or stopping")
	}
	var leaderless []spec.ShardID
	for _, l := range n.localShards() {
		if _, known, _ := l.replica.Led(); !known || n.network == nil && !l.leader.Leading() {
			leaderless = append(leaderless, l.id)
		}
	}
	return errors.Join(noLeader(leaderless), n.db.Writable())
}

// noLeader is the error of all shards without a leader, which may be hundreds.
func noLeader(shards []spec.ShardID) error {
	switch len(shards) {
	case 0:
		return nil
	case 1:
		return spec.Errorf(spec.CodeUnavailable, "shard %d has no leader just now", shards[0])
	}
	var names []string
	for _, id := range shards[:min(len(shards), shardsNamed)] {
		names = append(names, strconv.FormatUint(uint64(id), 10))
	}
	if more := len(shards) - len(names); more > 0 {
		names = append(names, fmt.Sprintf("and %d more", more))
	}
	return spec.Errorf(spec.CodeUnavailable, "shards %s have no leader just now", strings.Join(names, ", "))
}

// collector reports what the node is doing to the metrics page.
type collector struct{ node *Node }

var (
	shardLabels    = []string{"shard"}
	functionLabels = []string{"app", "function"}

	leadingDesc     = prometheus.NewDesc("pheromone_shard_leading", "Whether this node leads the shard and takes commands.", shardLabels, nil)
	pendingDesc     = prometheus.NewDesc("pheromone_shard_pending_invocations", "Invocations of the shard that have not ended.", shardLabels, nil)
	outboxDesc      = prometheus.NewDesc("pheromone_shard_outbox_messages", "Messages of the shard that other shards have not taken yet.", shardLabels, nil)
	appliedDesc     = prometheus.NewDesc("pheromone_shard_applied_index", "Index of the last raft entry applied.", shardLabels, nil)
	queuedDesc      = prometheus.NewDesc("pheromone_function_queued_attempts", "Attempts that wait for an executor.", functionLabels, nil)
	runningDesc     = prometheus.NewDesc("pheromone_function_running_attempts", "Attempts that executors run.", functionLabels, nil)
	processDesc     = prometheus.NewDesc("pheromone_executor_processes", "Executor processes.", nil, nil)
	sharedDesc      = prometheus.NewDesc("pheromone_shared_memory_bytes", "Memory that the inputs of functions' processes take up.", nil, nil)
	passedDesc      = prometheus.NewDesc("pheromone_shared_memory_passed_bytes_total", "Bytes of large objects that passed between the node and functions' processes, by way: inputs and outputs in memory, or inline on a socket.", []string{"way"}, nil)
	refusedDesc     = prometheus.NewDesc("pheromone_shared_memory_refused_total", "Large objects that went inline because there was no room in memory.", nil, nil)
	diskDesc        = prometheus.NewDesc("pheromone_store_disk_bytes", "Bytes that the store takes on disk.", nil, nil)
	stalledDesc     = prometheus.NewDesc("pheromone_stalled_triggers", "Triggers of scope bucket that can't go on; what comes for them is kept.", shardLabels, nil)
	ranDesc         = prometheus.NewDesc("pheromone_attempts_total", "Attempts of this node's shards that an executor took, by where: on this node, on one with a replica of the shard, on any other.", []string{"on"}, nil)
	inputsLocalDesc = prometheus.NewDesc("pheromone_attempts_inputs_local_total", "Attempts of this node's shards whose inputs were all read on the node that ran them.", nil, nil)
	lostDesc        = prometheus.NewDesc("pheromone_attempts_lost_total", "Attempts of this node's shards that were lost with another node.", nil, nil)
	returnedDesc    = prometheus.NewDesc("pheromone_attempts_returned_total", "Attempts of this node's shards that another node gave back without having run them.", nil, nil)
	awayDesc        = prometheus.NewDesc("pheromone_attempts_away", "Attempts of this node's shards that other nodes have now.", nil, nil)
	guestsDesc      = prometheus.NewDesc("pheromone_attempts_guests", "Attempts of other nodes' shards that this node has now.", nil, nil)
	lackingDesc     = prometheus.NewDesc("pheromone_large_objects_lacking", "Large objects whose bytes this node's replica of the shard does not have yet.", shardLabels, nil)
	lackedBytesDesc = prometheus.NewDesc("pheromone_large_objects_lacking_bytes", "Bytes of large objects that this node's replica of the shard does not have yet.", shardLabels, nil)
	repairedDesc    = prometheus.NewDesc("pheromone_large_objects_repaired_total", "Large objects that this node lacked and got from another one.", nil, nil)
	unrepairedDesc  = prometheus.NewDesc("pheromone_large_objects_repairs_failed_total", "Times that no other node could give a large object that this one lacks.", nil, nil)
	writableDesc    = prometheus.NewDesc("pheromone_store_writable", "Whether there is room on the disk for more.", nil, nil)
)

// Describe implements prometheus.Collector.
func (c *collector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{leadingDesc, pendingDesc, outboxDesc, appliedDesc, queuedDesc, runningDesc, processDesc, diskDesc, stalledDesc, writableDesc, ranDesc, inputsLocalDesc, lostDesc, returnedDesc, awayDesc, guestsDesc,
		lackingDesc, lackedBytesDesc, repairedDesc, unrepairedDesc, sharedDesc, passedDesc, refusedDesc} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(to chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for _, l := range c.node.localShards() {
		id := strconv.FormatUint(uint64(l.id), 10)
		_, pending, leading := l.leader.Status()
		gauge(leadingDesc, truth(leading), id)
		gauge(pendingDesc, float64(pending), id)
		gauge(outboxDesc, float64(l.leader.Outbox()), id)
		gauge(appliedDesc, float64(l.replica.Status().Applied), id)
		gauge(stalledDesc, float64(len(l.leader.Stalled())), id)
	}
	stats := c.node.pool.Stats()
	for _, f := range stats.Functions {
		gauge(queuedDesc, float64(f.Queued), string(f.App), string(f.Function))
		gauge(runningDesc, float64(f.Running), string(f.App), string(f.Function))
	}
	gauge(processDesc, float64(len(stats.Processes)))
	c.collectShared(to)
	c.collectSpread(to)
	c.collectLacking(to)
	gauge(diskDesc, float64(c.node.db.DiskBytes()))
	gauge(writableDesc, truth(c.node.db.Writable() == nil))
}

// collectShared reports how large objects pass between the node and processes.
func (c *collector) collectShared(to chan<- prometheus.Metric) {
	s := c.node.processes.Shared()
	to <- prometheus.MustNewConstMetric(sharedDesc, prometheus.GaugeValue, float64(s.Bytes))
	to <- prometheus.MustNewConstMetric(refusedDesc, prometheus.CounterValue, float64(s.Refused))
	for way, passed := range map[string]process.Passed{"inputs": s.Inputs, "outputs": s.Outputs, "inline": s.Inline} {
		to <- prometheus.MustNewConstMetric(passedDesc, prometheus.CounterValue, float64(passed.Bytes), way)
	}
}

// collectSpread reports where this node's leaders have attempts run.
func (c *collector) collectSpread(to chan<- prometheus.Metric) {
	if c.node.spread == nil {
		return
	}
	s := c.node.spread.Stats()
	count := func(d *prometheus.Desc, v uint64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	count(ranDesc, s.Leader, "leader")
	count(ranDesc, s.Replica, "replica")
	count(ranDesc, s.Other, "other")
	count(inputsLocalDesc, s.InputsLocal)
	count(lostDesc, s.Lost)
	count(returnedDesc, s.Returned)
	to <- prometheus.MustNewConstMetric(awayDesc, prometheus.GaugeValue, float64(s.Away))
	to <- prometheus.MustNewConstMetric(guestsDesc, prometheus.GaugeValue, float64(s.Guests))
}

// collectLacking reports which large objects this node's replicas do not have.
func (c *collector) collectLacking(to chan<- prometheus.Metric) {
	if c.node.blobs == nil {
		return
	}
	s := c.node.blobs.Stats()
	for shard, l := range s.Lacking {
		id := strconv.FormatUint(uint64(shard), 10)
		to <- prometheus.MustNewConstMetric(lackingDesc, prometheus.GaugeValue, float64(l.Objects), id)
		to <- prometheus.MustNewConstMetric(lackedBytesDesc, prometheus.GaugeValue, float64(l.Bytes), id)
	}
	to <- prometheus.MustNewConstMetric(repairedDesc, prometheus.CounterValue, float64(s.Repaired))
	to <- prometheus.MustNewConstMetric(unrepairedDesc, prometheus.CounterValue, float64(s.Failed))
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
