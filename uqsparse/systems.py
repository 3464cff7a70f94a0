"""The systems of the library: what each is for, where it lives and where it comes from."""

from typing import NamedTuple


class System(NamedTuple):
    """One system.

    Args:
        name: what it is called.
        room: the module or package that holds it.
        purpose: what it is for, in one line.
        source: authors, year and title of what it implements.
    """

    name: str
    room: str
    purpose: str
    source: str


SYSTEMS: tuple[System, ...] = (
    System(
        "Tempered SMC",
        "uqsparse.inference.tempered_smc",
        "Posterior draws and the evidence of a NumPyro model, several modes included",
        "Del Moral, Doucet & Jasra (2006), Sequential Monte Carlo samplers; "
        "Jasra, Stephens, Doucet & Tsagaris (2011), Inference for Lévy-driven stochastic volatility models "
        "via adaptive SMC; Zhou, Johansen & Aston (2016), Toward automatic model comparison",
    ),
    System(
        "Waste-free SMC",
        "uqsparse.inference.tempered_smc",
        "Keeps every state of every move: less noise for the same work where moves mix well",
        "Dau & Chopin (2022), Waste-free sequential Monte Carlo",
    ),
    System(
        "NUTS and HMC",
        "uqsparse.inference.nuts",
        "Posterior draws of a NumPyro model by NumPyro's own samplers, checked at the door, as ArviZ data",
        "Hoffman & Gelman (2014), The No-U-Turn Sampler",
    ),
    System(
        "Particle filters",
        "uqsparse.inference.particle_filter",
        "Hidden states and the evidence of a time series, for any state-space model; vectorised over parameters",
        "Gordon, Salmond & Smith (1993), Novel approach to nonlinear/non-Gaussian Bayesian state estimation; "
        "Pitt & Shephard (1999), Filtering via simulation",
    ),
    System(
        "Smoothing",
        "uqsparse.inference.smoothing",
        "States of a time series given all of it: backward simulation, fixed lag, genealogy",
        "Godsill, Doucet & West (2004), Monte Carlo smoothing for nonlinear time series",
    ),
    System(
        "Particle MCMC",
        "uqsparse.inference.particle_gibbs",
        "States and parameters together: particle Gibbs with ancestor sampling, and PMMH in uqsparse.inference.pmmh",
        "Andrieu, Doucet & Holenstein (2010), Particle Markov chain Monte Carlo methods; "
        "Lindsten, Jordan & Schön (2014), Particle Gibbs with ancestor sampling",
    ),
    System(
        "SMC²",
        "uqsparse.inference.smc2",
        "Parameters and evidence of a state-space model as the observations come in",
        "Chopin, Jacob & Papaspiliopoulos (2013), SMC²: an efficient algorithm for sequential analysis of "
        "state space models",
    ),
    System(
        "Exact recursions",
        "uqsparse.inference.kalman",
        "Kalman filter and smoother; forward-backward in uqsparse.inference.hidden_markov",
        "Kalman (1960), A new approach to linear filtering and prediction problems; "
        "Rauch, Tung & Striebel (1965), Maximum likelihood estimates of linear dynamic systems",
    ),
    System(
        "Validated transformations",
        "uqsparse.inference.transformations",
        "Inference algorithms as short compositions of steps that keep the measure: the executable semantics",
        "Ścibior et al. (2018), Denotational validation of higher-order Bayesian inference; "
        "Ścibior, Kammar & Ghahramani (2018), Functional programming for modular Bayesian inference",
    ),
    System(
        "Checks of inference code",
        "uqsparse.inference.checks",
        "Proves or refutes samplers, moves, resamplers, bijectors: exactly by enumeration, or at a stated level",
        "Ścibior et al. (2018); Gandy & Scott (2020), Unit testing for MCMC and other Monte Carlo methods; "
        "Talts, Betancourt, Simpson, Vehtari & Gelman (2018), Validating Bayesian inference algorithms with "
        "simulation-based calibration",
    ),
    System(
        "Reversible jump",
        "uqsparse.inference.involutive",
        "Metropolis-Hastings-Green kernels from an involution, its Jacobian taken automatically",
        "Green (1995), Reversible jump Markov chain Monte Carlo computation and Bayesian model determination; "
        "Cusumano-Towner, Lew & Mansinghka (2020), Automating involutive MCMC",
    ),
    System(
        "Constrained generation",
        "uqsparse.inference.constrained",
        "Strings of a language model given a regular expression, grammar or predicate, weighted right, and the "
        "constraint's probability",
        "Lipkin et al. (2025), Fast Controlled Generation from Language Models with Adaptive Weighted Rejection "
        "Sampling",
    ),
    System(
        "Constraints on strings",
        "uqsparse.inference.constraints",
        "Regular expressions, automata, context-free grammars (JSON) and predicates over the tokens of a model",
        "Brzozowski (1964), Derivatives of regular expressions; "
        "Earley (1970), An efficient context-free parsing algorithm",
    ),
    System(
        "Llama decoder",
        "uqsparse.nn.llama",
        "A small readable decoder whose linear maps can be replaced one by one; reads GGUF and safetensors",
        "Touvron et al. (2023), LLaMA: open and efficient foundation language models; "
        "Ainslie et al. (2023), GQA: training generalized multi-query transformer models",
    ),
    System(
        "Conformal prediction",
        "uqsparse.bounds.conformal",
        "Prediction sets that cover at a stated rate, from draws, intervals or probabilities; by groups, under shift",
        "Vovk, Gammerman & Shafer (2005), Algorithmic learning in a random world; Romano, Patterson & Candès (2019), "
        "Conformalized quantile regression; Tibshirani, Barber, Candès & Ramdas (2019), Conformal prediction under "
        "covariate shift",
    ),
    System(
        "CV+ and jackknife+",
        "uqsparse.bounds.cross_conformal",
        "Intervals that hold no data out, from folds, or approximately from one posterior by leave-one-out weights",
        "Barber, Candès, Ramdas & Tibshirani (2021), Predictive inference with the jackknife+; "
        "Vehtari, Gelman & Gabry (2017), Practical Bayesian model evaluation using leave-one-out cross-validation",
    ),
    System(
        "Conformal Bayes",
        "uqsparse.bounds.conformal_bayes",
        "Full conformal prediction from posterior draws, without refitting and with no data held out",
        "Fong & Holmes (2021), Conformal Bayesian computation",
    ),
    System(
        "Conformal risk control",
        "uqsparse.bounds.risk_control",
        "A threshold whose expected loss, such as missed labels, stays below a level",
        "Angelopoulos, Bates, Fisch, Lei & Schuster (2024), Conformal risk control",
    ),
    System(
        "Online conformal",
        "uqsparse.bounds.online",
        "Intervals along a series whose share of misses tends to alpha, and a martingale that tells of drift",
        "Gibbs & Candès (2021), Adaptive conformal inference under distribution shift; Gibbs & Candès (2024), "
        "Conformal inference for online prediction with arbitrary distribution shifts; Vovk et al. (2021), Retrain or "
        "not retrain",
    ),
    System(
        "Predictive systems",
        "uqsparse.bounds.predictive_systems",
        "Calibrated predictive distributions: quantiles, CRPS and PIT with finite-sample validity",
        "Vovk, Shen, Manokhin & Xie (2019), Nonparametric predictive distributions based on conformal prediction",
    ),
    System(
        "Conformal keypoints",
        "uqsparse.bounds.keypoints",
        "Discs or ellipses that hold all keypoints of an object in an image at once, from heatmaps or detections",
        "Yang & Pavone (2023), Object pose estimation with statistical guarantees: conformal keypoint detection and "
        "geometric uncertainty propagation",
    ),
    System(
        "Pose uncertainty sets",
        "uqsparse.bounds.pose",
        "All poses that keypoint regions allow: samples, and proved bounds on the rotation and translation error",
        "Yang & Pavone (2023), Object pose estimation with statistical guarantees; "
        "Tang, Lasserre & Yang (2023), Uncertainty quantification of set-membership estimation",
    ),
    System(
        "Moment relaxations",
        "uqsparse.solvers.moments",
        "Proved bounds on polynomials over algebraic sets, by semidefinite programs whose duals are checked",
        "Lasserre (2001), Global optimization with polynomials and the problem of moments; "
        "Jansson, Chaykin & Keil (2008), Rigorous error bounds for the optimal value in semidefinite programming",
    ),
    System(
        "PRESTO",
        "uqsparse.models.presto",
        "Probabilities of a rare event that ends ordered stages: a certified lasso path, and a Bayesian version",
        "Faletto & Bien (2023), Predicting rare events by shrinking towards proportional odds",
    ),
    System(
        "Predictive multiplicity",
        "uqsparse.bounds.multiplicity",
        "What all near-optimal models say about each person: certified ranges, ambiguity, discrepancy, capacity",
        "Watson-Daniels, Parkes & Ustun (2023), Predictive multiplicity in probabilistic classification; "
        "Hsu & Calmon (2022), Rashomon capacity",
    ),
    System(
        "Support functions",
        "uqsparse.solvers.support_function",
        "Largest linear functionals over all parameters of small loss, many at once, each with a dual bound; exact "
        "profile-likelihood intervals",
        "Boyd & Vandenberghe (2004), Convex optimization, chapter 5",
    ),
    System(
        "Calibrated probabilities",
        "uqsparse.bounds.calibration",
        "Calibration metrics that state their bins, reliability curves with exact bands, recalibrators, CaPE training",
        "Liu, Kaku, Zhu, Leibovich, Mohan et al. (2022), Deep probability estimation; "
        "Dimitriadis, Dümbgen, Henzi, Puke & Ziegel (2023), Honest calibration assessment for binary outcomes",
    ),
    System(
        "Sparse Bayesian learning",
        "uqsparse.models.sparse_bayes",
        "Sparse linear regression with error bars by evidence maximisation: EM, MacKay, MM and fast updates",
        "Tipping (2001), Sparse Bayesian learning and the relevance vector machine; "
        "Tipping & Faul (2003), Fast marginal likelihood maximisation for sparse Bayesian models",
    ),
    System(
        "Kronecker dictionaries",
        "uqsparse.models.kronecker_sbl",
        "Sparse tensors seen through Kronecker dictionaries that are never formed; IRS-MIMO channels",
        "He & Joseph (2024), Bayesian algorithms for Kronecker-structured sparse vector recovery with application to "
        "IRS-MIMO channel estimation",
    ),
    System(
        "l_p row sampling",
        "uqsparse.solvers.row_scores",
        "Certified sensitivities, Lewis weights and leverage; weighted samples of rows in uqsparse.solvers.coresets",
        "Woodruff & Yasuda (2023), Sharper bounds for l_p sensitivity sampling; "
        "Cohen & Peng (2015), l_p row sampling by Lewis weights",
    ),
    System(
        "Sparse coding models",
        "uqsparse.models.sparse_coding",
        "Dictionaries, noise and posteriors of six models with discrete or spike-and-slab causes that add or hide each "
        "other",
        "Exarchakis, Bornschein, Sheikh, Dai, Henniges, Drefs & Lücke (2019), ProSper: a Python library for "
        "probabilistic sparse coding with non-standard priors and superpositions; "
        "Lücke & Eggert (2010), Expectation truncation and the benefits of preselection in training generative models",
    ),
    System(
        "Sparse coding beyond l1",
        "uqsparse.kernels.penalties",
        "Eight penalties with their proximal maps; codes by uqsparse.solvers.iterative_thresholding, dictionaries by "
        "uqsparse.models.DictionaryLearner",
        "Rentzeperis, Calatroni, Perrinet & Prandi (2023), Beyond l1 sparse coding in V1",
    ),
    System(
        "Martingale posteriors",
        "uqsparse.inference.predictive_resampling",
        "Posteriors of any quantity from a rule that predicts the next observation, checked to be a martingale",
        "Fong, Holmes & Walker (2023), Martingale posterior distributions",
    ),
    System(
        "Neural processes",
        "uqsparse.models.neural_processes",
        "Eight networks that learn from many small tasks to predict a function from a few points; search for minima",
        "Lee, Yun, Nam, Fong & Lee (2023), Martingale posterior neural processes; "
        "Garnelo et al. (2018), Conditional neural processes; Kim et al. (2019), Attentive neural processes; "
        "Lee et al. (2020), Bootstrapping neural processes",
    ),
    System(
        "Few-shot learning",
        "uqsparse.models.niw_meta",
        "A belief about the weights of small tasks, learned without differentiating through them; MAML, Reptile and "
        "prototypes beside it",
        "Kim & Hospedales (2023), A hierarchical Bayesian model for deep few-shot meta learning; "
        "Finn, Abbeel & Levine (2017), Model-agnostic meta-learning for fast adaptation of deep networks",
    ),
    System(
        "Hit-and-run",
        "uqsparse.inference.hit_and_run",
        "Uniform draws from a set that is known by its membership test, rotations included",
        "Smith (1984), Efficient Monte Carlo procedures for generating points uniformly distributed over bounded "
        "regions; Neal (2003), Slice sampling",
    ),
    System(
        "Sparse layers",
        "uqsparse.kernels.sparse_products",
        "Products with sparse matrices that are faster than dense ones, with gradients; layers in uqsparse.nn.linear",
        "Xu et al. (2023), SparseByteNN: a novel mobile inference acceleration framework based on fine-grained group "
        "sparsity; Lin et al. (2022), 1xN pattern for pruning convolutional neural networks",
    ),
    System(
        "Sparse training",
        "uqsparse.pruning",
        "One Optax transformation after which weights off a changing mask are exactly zero; eight recipes of few lines",
        "Liu et al. (2021), Sparse training via boosting pruning plasticity with neuroregeneration; "
        "Evci et al. (2020), Rigging the lottery; Zhu & Gupta (2018), To prune, or not to prune; "
        "Mocanu et al. (2018), Scalable training of artificial neural networks with adaptive sparse connectivity; "
        "Frankle & Carbin (2019), The lottery ticket hypothesis",
    ),
    System(
        "Random pruning",
        "uqsparse.pruning.random_masks",
        "Masks at random positions with exact layer counts by any rule: the baseline of sparse training",
        "Liu et al. (2022), The unreasonable effectiveness of random pruning: return of the most naive baseline for "
        "sparse training",
    ),
    System(
        "Essential sparsity",
        "uqsparse.pruning.recipes.essential_sparsity",
        "How much of a trained network one pruning removes for free: the curve, its knee and an interval for it",
        "Jaiswal, Liu, Chen & Wang (2023), The emergence of essential sparsity in large pre-trained models",
    ),
    System(
        "Sparse Bayesian networks",
        "uqsparse.pruning.recipes.ssvi",
        "Posteriors over networks of which a few percent of the weights live, from the first step to the last",
        "Li, Miao, Qiu & Zhang (2024), Training Bayesian neural networks with sparse subspace variational inference",
    ),
    System(
        "Sparse iso-FLOP",
        "uqsparse.nn.iso_flop",
        "A larger sparse network with as many multiply-adds as the dense one: wide, parallel, factorised or doped",
        "Thangarasa, Saxena, Gupta & Lie (2024), Sparse iso-FLOP transformations for maximizing training efficiency",
    ),
    System(
        "Sparse accounting",
        "uqsparse.pruning.accounting",
        "Weights, bits, multiply-adds and times of a sparse network, and whether a run was what it is called",
        "Liu & Wang (2023), Ten lessons we have learned in the new sparseland",
    ),
    System(
        "Resampling kernels",
        "uqsparse.kernels.resampling",
        "Multinomial, stratified, systematic and residual resampling as functions of explicit uniforms",
        "Douc, Cappé & Moulines (2005), Comparison of resampling schemes for particle filtering",
    ),
    System(
        "Stein check",
        "uqsparse.inference.diagnostics",
        "Tells from gradients alone whether draws and a density belong together",
        "Gorham & Mackey (2015), Measuring sample quality with Stein's method",
    ),
    System(
        "Convergence diagnostics",
        "uqsparse.inference.diagnostics",
        "R-hat, effective sample sizes, divergences and E-BFMI, with warnings in plain sentences",
        "Vehtari, Gelman, Simpson, Carpenter & Bürkner (2021), Rank-normalization, folding, and localization",
    ),
    System(
        "UQ benchmarks",
        "uqsparse.bench",
        "Claims, leaderboards with proper scores, and speed ratios, measured and reported",
        "Gneiting & Raftery (2007), Strictly proper scoring rules, prediction, and estimation",
    ),
)
